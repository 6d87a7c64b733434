"""An answer as both models read it: its tokens with their text, class and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.diagnose.xray.breaks import Loop
from polopt.diagnose.xray.classes import FIRST
from polopt.diagnose.xray.scoring import Compared

DIGITS = 6  # significant digits of a number in JSON


@dataclass(frozen=True)
class Marked:
    """What an update made of the tokens of an answer, as the record of its run has it."""

    advantages: Sequence[float | None]  # None: the token took no part
    sides: Sequence[str] | None  # of the bound that held the token back, or ""; None: no bound

    def as_json(self) -> dict[str, Any]:
        """As columns of tokens."""
        bounded = {} if self.sides is None else {"clipped": list(self.sides)}
        return {"advantage": list(self.advantages), **bounded}


@dataclass(frozen=True)
class Answer:
    """One answer of one model, or one that was given, with T tokens."""

    of: str  # whose text it is: "before", "after", or what was given
    prompt: int  # number of the prompt
    draw: int  # number among the answers to it; the same number has the same seed in both models
    completion: str
    reward: float | None
    outcome: str
    finish: str
    loop: Loop | None
    ids: Sequence[int]
    pieces: Sequence[str]
    classes: Sequence[str]
    numbers: Compared
    marked: Marked | None = None

    @property
    def groups(self) -> list[str]:
        """The class of each token, the first token apart: each token is in one group."""
        return [FIRST, *self.classes[1:]]

    def as_json(self, names: dict[int, str]) -> dict[str, Any]:
        """The answer as JSON, tokens as columns; ``names`` has the text of likeliest tokens."""
        n = self.numbers
        return {
            "of": self.of,
            "prompt": self.prompt,
            "draw": self.draw,
            "completion": self.completion,
            "reward": self.reward,
            "outcome": self.outcome,
            "finish": self.finish,
            "loop": None if self.loop is None else self.loop.as_json(),
            "tokens": {
                "text": list(self.pieces),
                "class": list(self.classes),
                "p_before": rounded(np.exp(n.log_before)),
                "p_after": rounded(np.exp(n.log_after)),
                "rank_before": n.rank_before.tolist(),
                "rank_after": n.rank_after.tolist(),
                "entropy_before": rounded(n.entropy_before),
                "entropy_after": rounded(n.entropy_after),
                "kl": rounded(n.kl),
                "top_before": [names[token] for token in n.top_before.tolist()],
                "top_after": [names[token] for token in n.top_after.tolist()],
                **({} if self.marked is None else self.marked.as_json()),
            },
        }


def rounded(values: NDArray[np.float64]) -> list[float]:
    """Numbers with as many digits as a reader can use."""
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
