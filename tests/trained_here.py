"""Trainings of a comparison in this process: one of their own would load torch again."""

from __future__ import annotations

from pathlib import Path

from polopt.api.arm import go_on
from polopt.errors import RunDirectoryError

CHILD = "polopt.api.trainings.child"  # what `here` takes the place of


def here(directory: Path, before: str | None = None) -> dict[str, str]:
    found = go_on(str(directory), before)
    if "broken" in found:
        raise RunDirectoryError(found["broken"])
    return found
