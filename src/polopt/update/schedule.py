"""The learning rate as a pure function of progress, so that a resumed run needs no state."""

from __future__ import annotations

import math
from typing import SupportsFloat

from polopt.recipe import Update


def constant(way: float) -> float:
    """``1``."""
    return 1.0


def linear(way: float) -> float:
    """``1 - p``."""
    return 1.0 - way


def cosine(way: float) -> float:
    """``½ (1 + cos πp)``."""
    return 0.5 * (1 + math.cos(math.pi * way))


DECAYS = {"constant": constant, "linear": linear, "cosine": cosine}


def learning_rate(
    update: Update, step: int, steps: int, peak: SupportsFloat | None = None
) -> float:
    """Rate for the batch that takes the run from ``step`` to ``step + 1``.

    Linear warm-up: peak · (step + 1) / warmup_steps; then constant, or to 0 at ``steps``:
    linear 1 − p, cosine ½ (1 + cos πp), p the share of the way after warm-up. ``peak`` takes the
    place of that of the settings.
    """
    given = update.learning_rate if peak is None else peak
    assert given is not None, "resolved by the row"
    peak = float(given)
    if step < update.warmup_steps:
        return peak * (step + 1) / update.warmup_steps
    way = min(1.0, (step - update.warmup_steps) / max(1, steps - update.warmup_steps))
    return peak * DECAYS[update.decay](way)
