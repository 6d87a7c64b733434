"""The page that shows what training changed, from the JSON of ``polopt.xray``; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polopt.errors import RunDirectoryError
from polopt.report.xray.page import render

__all__ = ["render", "write"]


def write(found: Mapping[str, Any], path: Path) -> Path:
    """Write the page; one that is there is replaced.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    try:
        path.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"--out: {str(path)!r}: {error.strerror}") from error
    return path
