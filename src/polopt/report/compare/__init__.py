"""The page of a comparison, from the JSON of ``polopt.compare``; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polopt.errors import RunDirectoryError
from polopt.record import write_json
from polopt.report.compare.page import render

__all__ = ["render", "write"]


def write(found: Mapping[str, Any], directory: Path) -> Path:
    """Write ``compare.html`` and ``compare.json``; the path of the page.

    Raises:
        RunDirectoryError: they cannot be written.
    """
    page = directory / "compare.html"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "compare.json", dict(found))
        page.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"{str(page)!r} cannot be written: {error.strerror}") from error
    return page
