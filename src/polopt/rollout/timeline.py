"""Who did what, when: intervals of the trainer, of each engine, and of the rewards.

Several threads add to one timeline; the loop, the one writer of the record, takes from it at every
step. What one of them does piece after piece is one interval, so that a step has few of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain, groupby, pairwise
from typing import Any

from polopt.types import Group

TRAINER, REWARDS = "trainer", "rewards"
GAP = 0.002  # seconds between two pieces of the same work that still count as one
MOST = 64  # intervals of one kind in one step; shorter breaks between them are left out
_START = time.time() - time.perf_counter()


def clock() -> float:
    """Seconds since 1970 that never go back while the process lives."""
    return _START + time.perf_counter()


@dataclass(frozen=True)
class Interval:
    """Somebody did something from ``start`` to ``end``."""

    who: str  # trainer, rewards, engine 1, engine 2 and so on
    what: str  # generate, score, wait, update, publish, prove, evaluate, save
    start: float  # seconds since 1970
    end: float
    version: int  # of the policy: that which the engine serves, or the trainer has
    tickets: int = 0  # groups that were finished in it
    calls: tuple[float, ...] = ()  # seconds of each scoring in it, which may overlap


class Timeline:
    """Intervals until they are taken, and the seconds of each kind since the beginning."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._intervals = list[Interval]()
        self._last = dict[tuple[str, str, int], int]()  # kind -> place of its newest interval
        self._seconds = dict[str, float]()  # of each kind of work
        self._tickets = 0
        self._open = dict[int, tuple[str, float]]()  # what is being done, and since when

    def add(self, new: Interval) -> None:
        """Add an interval; it is joined to the one before where no break is between them."""
        kind = (new.who, new.what, new.version)
        with self._lock:
            self._seconds[new.what] = self._seconds.get(new.what, 0.0) + new.end - new.start
            self._tickets += new.tickets
            place = self._last.get(kind)
            before = None if place is None else self._intervals[place]
            if place is not None and before is not None and _touch(before, new):
                self._intervals[place] = _joined([before, new])
            else:
                self._last[kind] = len(self._intervals)
                self._intervals.append(new)

    @contextmanager
    def during(self, who: str, what: str, version: int, tickets: int = 0) -> Generator[list[Group]]:
        """Add the interval that the block takes; groups put into the list are finished in it."""
        start, finished = clock(), list[Group]()
        with self._lock:
            self._open[id(finished)] = what, start
        try:
            yield finished
        finally:
            with self._lock:
                del self._open[id(finished)]
        end = clock()
        calls = (end - start,) if what == "score" else ()
        self.add(Interval(who, what, start, end, version, tickets + len(finished), calls))

    @property
    def tickets(self) -> int:
        """Groups that were finished since the beginning, once for every kind of work on them."""
        with self._lock:
            return self._tickets

    def seconds(self, what: Iterable[str]) -> float:
        """Seconds of these kinds of work since the beginning, of everybody, until now."""
        kinds = set(what)
        with self._lock:
            now, going = clock(), [start for kind, start in self._open.values() if kind in kinds]
            done = sum(value for kind, value in self._seconds.items() if kind in kinds)
            return done + sum(now - start for start in going)

    def taken(self) -> list[dict[str, Any]]:
        """What was added since the last call, in the order of its beginning, as plain data."""
        with self._lock:
            intervals, self._intervals = self._intervals, []
            self._last.clear()
        kinds = groupby(sorted(intervals, key=_kind), key=_kind)
        kept = [one for _, of_kind in kinds for one in _fewer(list(of_kind), MOST)]
        return [_line(one) for one in sorted(kept, key=lambda one: one.start)]


def _kind(one: Interval) -> tuple[str, str, int]:
    return one.who, one.what, one.version


def _touch(one: Interval, other: Interval) -> bool:
    """Whether there is no break between the two."""
    return max(one.start, other.start) <= min(one.end, other.end) + GAP


def _joined(intervals: Sequence[Interval]) -> Interval:
    """From the first beginning to the last end."""
    return replace(
        intervals[0],
        start=min(one.start for one in intervals),
        end=max(one.end for one in intervals),
        tickets=sum(one.tickets for one in intervals),
        calls=tuple(chain.from_iterable(one.calls for one in intervals)),
    )


def _fewer(intervals: list[Interval], most: int) -> list[Interval]:
    """At most so many: the longest breaks between them stay, what lies closer is joined."""
    intervals = sorted(intervals, key=lambda one: one.start)
    ends = accumulate((one.end for one in intervals), max)
    breaks = [after.start - end for after, end in zip(intervals[1:], ends, strict=False)]
    kept = sorted(sorted(range(len(breaks)), key=lambda i: -breaks[i])[: most - 1])
    # Scores of several threads overlap: where there is no break, there is one interval.
    edges = [0, *(i + 1 for i in kept if breaks[i] > GAP), len(intervals)]
    return [_joined(intervals[a:b]) for a, b in pairwise(edges) if b > a]


def _line(one: Interval) -> dict[str, Any]:
    """With times to a tenth of a millisecond."""
    line = {**asdict(one), "start": round(one.start, 4), "end": round(one.end, 4)}
    line["calls"] = [round(seconds, 4) for seconds in one.calls]
    if not one.calls:
        del line["calls"]
    return line
