"""How groups pass from the prompts to the learners, and who waits for whom meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from polopt.coordination.ledger import End, Ledger
from polopt.rollout.timeline import TRAINER, Interval, Timeline, clock
from polopt.types import Metrics

BUSY = ("generate", "load")  # what engines do; proving that weights arrived is a part of loading


class Flow:
    """When groups were begun, delivered and taken. Used under the lock of the ledger.

    Args:
        ledger: of the groups.
        timeline: what engines were busy with.
        engines: how many of them there are.
        max_age: updates after which a group is given up; None: never.
    """

    def __init__(
        self,
        ledger: Ledger,
        timeline: Timeline | None = None,
        *,
        engines: int = 1,
        max_age: int | None = None,
    ) -> None:
        self._ledger, self.timeline, self._engines = ledger, timeline or Timeline(), engines
        bound = ledger.lag_bound
        self._bound = bound if max_age is None else min(bound, max_age)
        self._begun, self._delivered = dict[int, float](), dict[int, float]()
        self.start()

    def start(self) -> None:
        """From here on it is counted: after a ledger was restored."""
        self._since, self._busy = clock(), self.timeline.seconds(BUSY)
        self._ended = dict(self._ledger.ended)

    def begun(self, tickets: Iterable[int]) -> None:
        """Somebody began to generate these."""
        self._begun |= dict.fromkeys(tickets, clock())

    def delivered(self, tickets: Iterable[int]) -> None:
        """These are scored, and wait for a batch."""
        self._delivered |= dict.fromkeys(tickets, clock())

    def dropped(self, tickets: Iterable[int]) -> None:
        """These are in no batch."""
        for ticket in tickets:
            self._begun.pop(ticket, None)
            self._delivered.pop(ticket, None)

    def taken(self, tickets: list[int], waited: float) -> Metrics:
        """The metrics of a batch that was waited for; counts are those since the batch before."""
        now = clock()
        self.timeline.add(Interval(TRAINER, "wait", now - waited, now, self._ledger.version))
        metrics = self._seconds(tickets, now) | self._idle(now, waited)
        slots, ended = self._ledger.stats(), self._ledger.ended
        metrics |= {
            "slots/waiting": float(slots.waiting),
            "slots/running": float(slots.running),
            "slots/ready": float(slots.ready),
            "slots/free": float(slots.free),
            "groups/stale": float(ended[End.STALE] - self._ended[End.STALE]),
            "groups/failed": float(ended[End.FAILED] - self._ended[End.FAILED]),
            "lag/bound": float(self._bound),
        }
        self.dropped(tickets)
        self.start()
        return metrics

    def _seconds(self, tickets: list[int], now: float) -> Metrics:
        done = {ticket: self._delivered.get(ticket, now) for ticket in tickets}
        flights = [end - self._begun.get(ticket, end) for ticket, end in done.items()]
        return {
            "groups/in_flight": fmean(flights),
            "groups/in_flight_max": max(flights),
            "groups/queue": fmean(now - end for end in done.values()),
        }

    def _idle(self, now: float, waited: float) -> Metrics:
        """Shares of the time since the batch before."""
        window = max(now - self._since, 1e-9)
        busy = (self.timeline.seconds(BUSY) - self._busy) / (window * self._engines)
        return {
            "idle/trainer": min(1.0, waited / window),
            "idle/engines": min(1.0, max(0.0, 1.0 - busy)),
        }
