"""What a reward function returned, as one number, None or problem for each completion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from polopt.types import Outcome

LARGEST = float(np.finfo(np.float32).max)  # scores are kept in float32


@dataclass(frozen=True)
class Problem:
    """Why there is no number, and what kind of failure that is."""

    outcome: Outcome
    text: str


def values(returned: Any, count: int) -> list[float | Problem | None] | Problem:  # noqa: ANN401
    """One entry for each completion, or a problem with all of them.

    Numbers are int, float, bool, and scalars of numpy or torch; None means that the reward does not
    apply. A one-dimensional array or tensor is a list of numbers.
    """
    allowed = f"a list of {count} numbers (or None), one for each completion"
    if isinstance(returned, np.ndarray | torch.Tensor):
        returned = returned.tolist() if returned.ndim == 1 else returned
    if not isinstance(returned, list | tuple):
        return Problem(Outcome.ERROR, f"returned {_kind(returned)}; {allowed}")
    if len(returned) != count:
        return Problem(Outcome.ERROR, f"returned {len(returned)} values; {allowed}")
    return [_value(item) for item in returned]


def _value(item: Any) -> float | Problem | None:  # noqa: ANN401
    if item is None:
        return None
    if isinstance(item, np.ndarray | torch.Tensor | np.generic) and item.ndim == 0:
        item = item.item()
    if not isinstance(item, Real | np.bool_):
        return Problem(Outcome.ERROR, f"returned {_kind(item)}; a number or None")
    try:
        number = float(item)
    except OverflowError:
        number = math.inf
    if abs(number) <= LARGEST:
        return number
    return Problem(Outcome.UNSCORABLE, f"returned {number}; a finite number or None")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"values of shape {tuple(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
