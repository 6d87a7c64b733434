"""The metrics of a stage so far, as the rules of the alarms look at them.

A value now is the median of the last :data:`FEW` steps, so that one noisy step changes nothing; one
of the start is the mean of the first :data:`FEW`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from statistics import fmean, median

from polopt.choices.alarms import Alarm, Alarms
from polopt.recipe.fields import fact

FEW = 5  # steps of a window
RECENT = 20  # steps over which a run learns something, or does not
NOISE = 2.0  # standard errors below which a change is none
SOLVED = 0.9  # accuracy from which nothing is wrong with a policy that has stopped to explore
MOST_PROMPTS = 100_000  # of which it is kept what they earned
OUTCOMES = ("accuracy", "reward/mean", "return/mean")  # the first that a stage has
LOSSES = ("policy/nll", "policy/loss", "reward_model/loss")  # of what is imitated or preferred


@cache
def _read() -> frozenset[str]:
    """What rules look at beside the figures of evaluations; nothing else is kept."""
    alarms = (fact(f"alarms.{name}", Alarm) for name in Alarms.model_fields)
    return frozenset(m for one in alarms if one for m in one.reads) | {*OUTCOMES, *LOSSES}


@dataclass
class Gain:
    """What a training prompt earned when it was first asked, and when it was last asked."""

    first: float
    last: float
    times: int = 1


@dataclass
class History:
    """The lines of a stage; what is evaluated stands in lists of its own, by its step."""

    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    line: Mapping[str, float] = field(default_factory=dict[str, float])  # the newest
    gains: dict[str, Gain] = field(default_factory=dict[str, Gain])  # by prompt
    steps: int = 0  # lines, without the evaluation before the stage
    evaluated: list[int] = field(default_factory=list[int])  # steps before each evaluation

    def add(self, line: Mapping[str, float]) -> None:
        """Add the numbers of one line of metrics."""
        self.line = line
        for name, value in line.items():
            if name in _read() or name.startswith("eval/"):
                self.values.setdefault(name, []).append(value)
        self.steps += bool(line.get("stage_step", 1))
        if any(name.startswith("eval/") for name in line):
            self.evaluated.append(self.steps)

    def earned(self, prompts: Mapping[str, float]) -> None:
        """Add what the prompts of a step earned, by their keys."""
        for key, reward in prompts.items():
            known = self.gains.get(key)
            if known is None:
                if len(self.gains) < MOST_PROMPTS:
                    self.gains[key] = Gain(reward, reward)
            else:
                known.last, known.times = reward, known.times + 1

    def now(self, name: str) -> float | None:
        """The median of the last few values; None: there are too few, or the line has none."""
        values = self.values.get(name, [])
        return median(values[-FEW:]) if name in self.line and len(values) >= 2 * FEW else None

    def start(self, name: str) -> float:
        """The mean of the first few values."""
        return fmean(self.values[name][:FEW])

    def before(self, name: str, steps: int) -> float | None:
        """The median of the last few values as it was so many values ago."""
        values = self.values.get(name, [])
        end = len(values) - steps
        return median(values[end - FEW : end]) if end >= FEW else None

    @property
    def outcome(self) -> str | None:
        """The metric that says how well the policy does on what it is trained on."""
        return next((name for name in OUTCOMES if name in self.values), None)

    def rose(self, steps: int) -> bool:
        """Whether the outcome of the last few steps is above that of so many steps before."""
        if self.outcome is None:
            return False
        values = self.values[self.outcome]
        width = min(2 * FEW, len(values) - steps)
        if width < FEW:
            return True  # nobody knows yet
        later, earlier = values[-width:], values[len(values) - steps - width : len(values) - steps]
        return fmean(later) - fmean(earlier) > NOISE * error_of_difference(later, earlier)

    @property
    def solved(self) -> bool:
        """Whether nearly all answers are right: then there is nothing left to try."""
        accuracy = self.now("accuracy")
        return accuracy is not None and accuracy >= SOLVED


def error_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of the difference of two means, by the noise from value to value.

    ``sqrt(s² (1/n + 1/m))`` with ``s² = mean((x_{t+1} - x_t)²) / 2``: a trend inside a window is
    not noise.
    """
    jumps = [(b - a) ** 2 for part in (one, other) for a, b in pairwise(part)]
    return math.sqrt(fmean(jumps) / 2 * (1 / len(one) + 1 / len(other))) if jumps else 0.0
