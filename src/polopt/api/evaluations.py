"""The files of an evaluation: its table, its page, and every answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polopt.errors import RunDirectoryError
from polopt.record import disk_errors, write_json
from polopt.report import evaluation

if TYPE_CHECKING:
    from polopt.api.examine import Examined


def write(found: Sequence[Examined], target: str, directory: Path) -> None:
    """Write ``figures.json``, ``answers.jsonl`` and ``report.html`` into a new directory.

    Raises:
        RunDirectoryError: the directory exists, or cannot be made.
    """
    from polopt import __version__

    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise RunDirectoryError(f"--output: {str(directory)!r}: {error.strerror}") from error
    entries = [one.entry for one in found]
    answers = [line for one in found for line in one.answers]
    write_json(directory / "figures.json", {"evaluated": target, "evaluations": entries})
    with disk_errors(directory):
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
        (directory / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
        page = evaluation.render(target, __version__, entries, answers)
        (directory / "report.html").write_text(page, encoding="utf-8")
