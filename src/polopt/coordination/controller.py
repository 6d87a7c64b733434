"""Answers measured lag: where responses fit the policy too badly, it is allowed less of it.

The mismatch of a step is k3 between the policy that trains and the one that sampled, the largest of
its lags. Above the target for :data:`ABOVE` steps in a row one rung of a ladder is taken: a smaller
window, then a smaller S, then a smaller learning rate, then a larger coefficient of the KL. Below
half of it for :data:`BELOW` steps in a row the last one is taken back; twice as many each time that
it had to be taken again, so that it does not go up and down for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path

from polopt.record import write_json
from polopt.types import Advantages, Experience, Metrics

ABOVE = 3  # steps above the target before an action: one batch may be odd
BELOW = 10  # steps below LOWER before one is taken back
LOWER = 0.5  # share of the target; in between nothing is done
LEAST_ESS = 0.5  # effective share of the sample below which it counts as above the target
TIMES = 3  # that the learning rate is halved, and the coefficient doubled, at most

STATE_FILE = "state.json"
MISMATCH, ESS = (re.compile(rf"(behaviour|lag/\d+)/{name}") for name in ("kl", "ess"))


@dataclass(frozen=True)
class Rung:
    """The settings in force: the bounds on lag, and factors on two fields of the recipe."""

    window: int
    staleness: int
    rate: float = 1.0  # of update.learning_rate
    kl: float = 1.0  # of kl.coefficient


@dataclass(frozen=True)
class Held:
    """Where a controller stands."""

    rung: int = 0
    above: int = 0  # steps in a row above the target
    below: int = 0  # and below its lower end
    wait: int = BELOW  # steps below before a rung is taken back
    undone: bool = False  # the last action took one back


def ladder(window: int, staleness: int, *, rate: bool = True, kl: bool = False) -> list[Rung]:
    """The rungs from the recipe down: W is halved to 1, S lowered by 1 to 0, then the factors.

    Args:
        window: W of the recipe.
        staleness: S of the recipe.
        rate: whether there is a learning rate to lower.
        kl: whether there is a coefficient to raise.
    """
    rungs = [Rung(window, staleness)]
    while rungs[-1].window > 1:
        rungs.append(replace(rungs[-1], window=rungs[-1].window // 2))
    while rungs[-1].staleness > 0:
        rungs.append(replace(rungs[-1], staleness=rungs[-1].staleness - 1))
    for _ in range(TIMES * rate):
        rungs.append(replace(rungs[-1], rate=rungs[-1].rate / 2))
    for _ in range(TIMES * kl):
        rungs.append(replace(rungs[-1], kl=rungs[-1].kl * 2))
    return rungs


def advance(held: Held, mismatch: float, *, target: float, last: int) -> Held:
    """The state after one more step; the rung differs by 1 at most.

    Args:
        held: before it.
        mismatch: k3 that was measured, in nats a token.
        target: what it should not exceed.
        last: index of the last rung.
    """
    if mismatch > target:
        above = held.above + 1
        if above < ABOVE or held.rung == last:
            return replace(held, above=min(above, ABOVE), below=0)
        return Held(held.rung + 1, wait=held.wait * 2 if held.undone else held.wait)
    if mismatch < LOWER * target:
        below = held.below + 1
        if below < held.wait or held.rung == 0:
            return replace(held, above=0, below=min(below, held.wait))
        return Held(held.rung - 1, wait=held.wait, undone=True)
    return replace(held, above=0, below=0)


def mismatch_of(line: Mapping[str, float]) -> float | None:
    """The largest k3 of all lags; infinite where too little of a sample counts, None: none there.

    Metrics ``behaviour/kl`` and ``behaviour/ess``, and ``lag/N/kl`` and ``lag/N/ess`` of each lag.
    """
    kls = [value for name, value in line.items() if MISMATCH.fullmatch(name)]
    shares = [value for name, value in line.items() if ESS.fullmatch(name)]
    if kls and min(shares, default=1.0) < LEAST_ESS:
        return inf
    return max(kls, default=None)


def in_words(before: Rung, after: Rung) -> str:
    """What changes from a rung to its neighbour: ``window 8 to 4``."""
    names = {"window": "window", "staleness": "staleness", "rate": "learning rate", "kl": "KL"}
    for field, name in names.items():
        old, new = (getattr(rung, field) for rung in (before, after))
        if old != new:
            times = "" if field in ("window", "staleness") else " times that of the recipe"
            return f"{name} {old:g} to {new:g}{times}"
    raise AssertionError("neighbours differ")


class Controller:
    """Climbs a ladder by what is measured; a learner of the stage, so that a checkpoint has it.

    Args:
        rungs: of :func:`ladder`.
        target: k3 in nats a token that should not be exceeded.
        apply: puts the settings of a rung in force.
        tell: says what was done, for the record.
    """

    name = "controller"

    def __init__(
        self,
        rungs: Sequence[Rung],
        target: float,
        apply: Callable[[Rung], None],
        tell: Callable[[str], None],
    ) -> None:
        assert all(a != b for a, b in pairwise(rungs)), "neighbours differ"
        self._rungs, self._target, self._apply, self._tell = rungs, target, apply, tell
        self._held = Held()

    def react(self, line: Mapping[str, float]) -> Metrics:
        """Act on what was measured in a step; the metrics are what was in force in it."""
        before, mismatch = self._rungs[self._held.rung], mismatch_of(line)
        metrics: Metrics = {
            "controller/actions": float(self._held.rung),
            "controller/window": float(before.window),
            "controller/staleness": float(before.staleness),
        }
        if mismatch is None:
            return metrics
        last, rung = len(self._rungs) - 1, self._held.rung
        wait = self._held.wait
        self._held = advance(self._held, mismatch, target=self._target, last=last)
        if self._held.rung != rung:
            lowered, after = self._held.rung > rung, self._rungs[self._held.rung]
            why = f"above it for {ABOVE}" if lowered else f"below {LOWER:g} times it for {wait}"
            self._apply(after)
            self._tell(self._said(before, after, mismatch, why))
        return metrics

    def _said(self, before: Rung, after: Rung, mismatch: float, why: str) -> str:
        measured = f"k3 {mismatch:.2g}" if isfinite(mismatch) else "k3, of few samples that count,"
        return (
            f"coordination.target_mismatch = {self._target:g}: {measured} is {why} steps: "
            f"{in_words(before, after)}"
        )

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Nothing: it reacts to what others measured."""
        return {}

    def save(self, directory: Path) -> dict[str, int]:
        """Write where it stands."""
        write_json(directory / STATE_FILE, asdict(self._held))
        return {"rung": self._held.rung}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote, and put it in force."""
        self._held = Held(**json.loads((directory / STATE_FILE).read_text(encoding="utf-8")))
        self._apply(self._rungs[self._held.rung])
