"""Pages made from run directories; torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from polopt.errors import RunDirectoryError
from polopt.report.page import render
from polopt.report.read import RunRecord, load

__all__ = ["RunRecord", "load", "write"]


def write(run_directory: Path, *, renewed: float | None = None) -> Path:
    """Write ``report.html`` into ``run_directory``: one file that explains the run.

    It may be called at any time, also while the run goes on: a reader sees the old page or the new
    one, never half of one.

    Args:
        run_directory: of the run.
        renewed: seconds after which the caller writes it again: the page reads itself anew.

    Raises:
        RunDirectoryError: it is no run directory, cannot be read, or the page cannot be written.
    """
    record = load(run_directory)
    page = render(record, renewed=renewed)
    path = record.directory / "report.html"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error
    return path
