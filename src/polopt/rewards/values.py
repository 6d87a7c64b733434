"""Checks of the values that a reward function returned: a number, None or a problem for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from polopt.types import Outcome

LARGEST = float(np.finfo(np.float32).max)  # scores are kept in float32


@dataclass(frozen=True)
class Problem:
    """A failure in the place of a number: its outcome and its reason."""

    outcome: Outcome
    text: str
    stops: bool = True  # whether ``on_error`` is asked; not where the answer itself is the reason


@dataclass(frozen=True)
class Steps:
    """The rewards of the tokens of a completion; NaN where no step ends."""

    numbers: tuple[float, ...]

    @property
    def total(self) -> float:
        """The sum of the rewards; 0 where no step ends."""
        return math.fsum(number for number in self.numbers if not math.isnan(number))


def token_values(
    returned: Any,  # noqa: ANN401
    lengths: Sequence[int],
) -> list[Steps | Problem | None] | Problem:
    """The step rewards of each completion, or one problem with all of them.

    A number is None or NaN where no step ends; None in the place of a list means that the reward
    does not apply to the completion. One-dimensional arrays and tensors are lists of numbers.
    """
    allowed = f"a list of {len(lengths)} lists (or None), one for each completion"
    if not isinstance(returned, list | tuple):
        return Problem(Outcome.ERROR, f"returned {_kind(returned)}; {allowed}")
    if len(returned) != len(lengths):
        return Problem(Outcome.ERROR, f"returned {len(returned)} values; {allowed}")
    return [None if r is None else _steps(r, n) for r, n in zip(returned, lengths, strict=True)]


def _steps(item: Any, length: int) -> Steps | Problem:  # noqa: ANN401
    missing = [None if _is_nan(number) else number for number in item] if _is_row(item) else item
    found = values(missing, length)
    if isinstance(found, Problem):
        allowed = f"{length} numbers (or None), one for each token"
        return Problem(found.outcome, f"{found.text.partition(';')[0]}; {allowed}")
    problems = [number for number in found if isinstance(number, Problem)]
    if problems:
        return problems[0]
    return Steps(tuple(math.nan if n is None else n for n in found if not isinstance(n, Problem)))


def _is_row(item: object) -> bool:
    return isinstance(item, list | tuple) or getattr(item, "ndim", 0) == 1


def _is_nan(number: Any) -> bool:  # noqa: ANN401
    return isinstance(number, float | np.floating | torch.Tensor) and bool(number != number)


def values(returned: Any, count: int) -> list[float | Problem | None] | Problem:  # noqa: ANN401
    """The reward of each completion, or one problem with all of them.

    Numbers are int, float, bool, and scalars of numpy or torch; a bool stays one, for it says
    right or wrong. None means that the reward does not apply. A one-dimensional array or tensor is
    a list of numbers. A verifier may return problems.
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
    if item is None or isinstance(item, Problem):
        return item
    if isinstance(item, np.ndarray | torch.Tensor | np.generic) and item.ndim == 0:
        item = item.item()
    if isinstance(item, bool | np.bool_):
        return bool(item)
    if not isinstance(item, Real):
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
