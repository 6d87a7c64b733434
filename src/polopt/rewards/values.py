"""Checks of the values that a reward function returned: a number, None or a problem for each.

They come as :func:`polopt.isolated.calls.plain` has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polopt.isolated.calls import Other
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
    returned: list[Any] | Other, lengths: Sequence[int]
) -> list[Steps | Problem | None] | Problem:
    """The step rewards of each completion, or one problem with all of them.

    A number is None or NaN where no step ends; None in the place of a list means that the reward
    does not apply to the completion.
    """
    allowed = f"a list of {len(lengths)} lists (or None), one for each completion"
    if isinstance(returned, Other):
        return Problem(Outcome.ERROR, f"returned {returned.text}; {allowed}")
    if len(returned) != len(lengths):
        return Problem(Outcome.ERROR, f"returned {len(returned)} values; {allowed}")
    return [None if r is None else _steps(r, n) for r, n in zip(returned, lengths, strict=True)]


def _steps(item: Any, length: int) -> Steps | Problem:  # noqa: ANN401
    allowed = f"{length} numbers (or None), one for each token"
    if not isinstance(item, list):
        return Problem(Outcome.ERROR, f"returned {_kind(item)}; {allowed}")
    found = values([None if _is_nan(number) else number for number in item], length)
    if isinstance(found, Problem):
        return Problem(found.outcome, f"{found.text.partition(';')[0]}; {allowed}")
    problems = [number for number in found if isinstance(number, Problem)]
    if problems:
        return problems[0]
    return Steps(tuple(math.nan if n is None else n for n in found if not isinstance(n, Problem)))


def _is_nan(number: object) -> bool:
    return isinstance(number, float) and math.isnan(number)


def values(returned: list[Any] | Other, count: int) -> list[float | Problem | None] | Problem:
    """The reward of each completion, or one problem with all of them.

    A bool stays one, for it says right or wrong. None means that the reward does not apply. A
    verifier may return problems.
    """
    allowed = f"a list of {count} numbers (or None), one for each completion"
    if isinstance(returned, Other):
        return Problem(Outcome.ERROR, f"returned {returned.text}; {allowed}")
    if len(returned) != count:
        return Problem(Outcome.ERROR, f"returned {len(returned)} values; {allowed}")
    return [_value(item) for item in returned]


def _value(item: Any) -> float | Problem | None:  # noqa: ANN401
    if item is None or isinstance(item, Problem | bool):
        return item
    if not isinstance(item, float):
        return Problem(Outcome.ERROR, f"returned {_kind(item)}; a number or None")
    if abs(item) <= LARGEST:
        return item
    return Problem(Outcome.UNSCORABLE, f"returned {item}; a finite number or None")


def _kind(item: object) -> str:
    return item.text if isinstance(item, Other) else f"a value of type {type(item).__name__}"
