"""Out of memory on a device, in one line."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from polopt.errors import DeviceMemoryError, one_line

KNOBS = {
    "rollout": "rollout.rows",
    "update": "update.micro_batch_tokens",
    "evaluation": "rollout.rows",
    "checkpoint": "",
}
"""Phases of a step, and the field that decides how much memory each takes."""


@contextmanager
def told(phase: str, run: Path) -> Generator[None]:
    """Say where memory ran out and what takes less; what could be halved has been.

    Raises:
        DeviceMemoryError: in the place of torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        knob = KNOBS[phase]
        less = f"a run with a smaller {knob} takes less, " if knob else ""
        reason = one_line(str(error).split(". ")[0], 120)
        raise DeviceMemoryError(
            f"{phase}: the device is out of memory ({reason}); {less}polopt check says what is "
            f"needed, and with more of it free this one goes on: polopt resume {run}"
        ) from error
