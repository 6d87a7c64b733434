"""Answers that broke: cut at the limit, repeating themselves, or running on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polopt.rollout.evaluation import share_interval
from polopt.types import Finish

if TYPE_CHECKING:
    from polopt.diagnose.xray.read import Answer

TIMES = 3  # that something is said in a row before it is a loop
LEAST = 12  # tokens of a loop: three equal digits are none
LONGEST = 256  # tokens of what is said again and again
TWICE = 2  # as long as the longest answer of the other model to the same prompt: it runs on


@dataclass(frozen=True)
class Loop:
    """A stretch that says the same again and again.

    Example: that of the characters ``3+8=1;1;1;1;1;1;1;`` begins at 6, the second ``1;``, which is
    the first one that was said before; its period is 2, its length 14.
    """

    begins: int  # place of the first token that only repeats, counted from 0
    period: int  # tokens until it comes again
    length: int  # tokens from the first time to the end of the last one

    def as_json(self) -> dict[str, int]:
        """As a mapping."""
        return {"begins": self.begins, "period": self.period, "length": self.length}


def loop(tokens: Sequence[int]) -> Loop | None:
    """The loop that begins first, of several the one with the shortest period; None: there is none.

    A stretch of n tokens with ``y_t = y_{t-p}`` inside is a loop of period p if it has at least
    three periods and twelve tokens.
    """
    y, found = np.asarray(tokens), list[Loop]()
    for period in range(1, min(len(y) // TIMES, LONGEST) + 1):
        again = np.flatnonzero(
            np.diff((y[period:] == y[:-period]).astype(np.int8), prepend=0, append=0)
        )
        for start, end in again.reshape(-1, 2).tolist():
            length = end - start + period
            if length >= max(TIMES * period, LEAST):
                found.append(Loop(start + period, period, length))
                break
    return min(found, key=lambda one: (one.begins, one.period), default=None)


def breaks(answers: Sequence[Answer], others: Sequence[Answer]) -> dict[str, Any]:
    """Shares of broken answers, and where their loops begin.

    Args:
        answers: of one model.
        others: of the other one, to the same prompts.
    """
    longest = dict[int, int]()
    for one in others:
        longest[one.prompt] = max(longest.get(one.prompt, 0), len(one.ids))
    cut = [one.finish == Finish.LENGTH for one in answers]
    repeats = [one.loop is not None for one in answers]
    marks: Mapping[str, list[bool]] = {
        "cut": cut,
        "repeats": repeats,
        "broken": [a or b for a, b in zip(cut, repeats, strict=True)],
        "runs_on": [  # no break: it may work out what the other model guesses
            one.prompt in longest and len(one.ids) > TWICE * longest[one.prompt] for one in answers
        ],
    }
    begins = sorted(one.loop.begins for one in answers if one.loop is not None)
    return {
        "answers": len(answers),
        "length": statistics.fmean(len(one.ids) for one in answers) if answers else 0.0,
        **{name: _share(answers, values) for name, values in marks.items()},
        "begins": {
            "median": statistics.median(begins),
            "quartiles": np.percentile(begins, (25, 75)).tolist(),
            "of_answer": statistics.median(
                one.loop.begins / len(one.ids) for one in answers if one.loop is not None
            ),
        }
        if begins
        else None,
    }


def _share(answers: Sequence[Answer], values: Sequence[bool]) -> dict[str, Any]:
    of_prompts = dict[int, list[bool]]()
    for one, value in zip(answers, values, strict=True):
        of_prompts.setdefault(one.prompt, []).append(value)
    shares = [statistics.fmean(own) for own in of_prompts.values()]
    if not shares:
        return {"value": 0.0, "interval": None}
    return {"value": statistics.fmean(values), "interval": list(share_interval(shares))}
