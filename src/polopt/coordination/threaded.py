"""Generate in threads while the learners train: the modes split and buffered."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.coordination.flow import Flow
from polopt.coordination.ledger import End, Ledger, Ticket
from polopt.coordination.rollouter import Rollouter
from polopt.coordination.sources import resampled
from polopt.errors import StalledError
from polopt.isolated import workers
from polopt.rollout.engines import Weights
from polopt.rollout.engines.shared import ClosedError
from polopt.types import Batch, Group, Metrics

WORKERS = 64  # threads that roll out; each waits for its engine, or for a reward, most of the time

SCORED = 5.0  # seconds for rewards that are being computed when a run ends

Key = Callable[[Ticket, int], Any]
"""``(ticket, version) -> order`` inside the window, smallest first."""


@dataclass(frozen=True)
class Taking:
    """Which of the groups that are done make a batch."""

    key: Key
    max_age: int | None = None  # versions; older groups are given up for new ones
    patience: float = math.inf  # seconds without any group before the run gives up


class ThreadedSource:
    """Threads claim tickets, and deliver scored groups; a batch is taken when it is complete.

    With S = 0 one thread rolls out all of a batch, as :class:`InlineSource` does: the same bits.

    Args:
        rollouters: one for each thread that rolls out.
        ledger: shared by the threads; what it says is said under one lock.
        weights: of the policy that is trained.
        taking: from the window.
        flow: counts the groups that pass.
        listen: called every second while a batch is waited for: threads may have something to tell.
    """

    def __init__(
        self,
        rollouters: Sequence[Rollouter],
        ledger: Ledger,
        weights: Weights,
        taking: Taking,
        flow: Flow | None = None,
        listen: Callable[[], None] = lambda: None,
    ) -> None:
        self._listen = listen
        self._flow = flow or Flow(ledger, max_age=taking.max_age)
        self._rollouters, self._ledger = rollouters, ledger
        self._weights, self._taking = weights, taking
        self._changed = threading.Condition()
        self._threads = list[threading.Thread]()
        self._failure: BaseException | None = None
        self._closed = False
        self._share = -(-ledger.capacity // len(rollouters))
        self._stats: Metrics = {}  # of the threads since the last batch
        self._heard = time.monotonic()  # when a group was generated, scored or delivered
        self._thrown = resampled(())  # away since the last batch
        self._last: Metrics = {}  # of that batch

    def publish(self, version: int) -> None:
        """Have every engine serve the weights as they are now; the first time, begin."""
        timeline = self._flow.timeline
        start, proving = time.monotonic(), timeline.seconds(["prove"])
        self._rollouters[0].engine.publish(self._weights, version)
        self._last["time/prove"] = timeline.seconds(["prove"]) - proving
        self._last["time/publish"] = time.monotonic() - start - self._last["time/prove"]
        if not self._threads:
            self._flow.start()
        with self._changed:
            self._ledger.published(version)
            self._ledger.admit()
            self._changed.notify_all()
        if not self._threads:
            for rollouter in self._rollouters:
                thread = threading.Thread(
                    target=self._run, args=(rollouter,), name="polopt rollout", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def next_batch(self) -> Batch:
        """The next batch; waits for it.

        Raises:
            StalledError: no group was delivered for too long.
            Exception: one in a thread that rolls out.
        """
        with self._changed:
            start = self._heard = time.monotonic()
            done = self._flow.timeline.tickets
            while (taken := self._taken()) is None:
                if self._failure is not None:
                    raise self._failure
                if done != self._flow.timeline.tickets:  # a part of what a thread has claimed
                    done, self._heard = self._flow.timeline.tickets, time.monotonic()
                left = self._heard + self._taking.patience - time.monotonic()
                if left <= 0:
                    raise StalledError(
                        f"coordination.patience: no response in {self._taking.patience:g} s: "
                        f"{self._ledger.stats()}"
                    )
                self._listen()
                self._changed.wait(min(left, 1.0))  # signals are seen in between
            waited = time.monotonic() - start
            stats, self._stats = self._stats, {}
            thrown, self._thrown = self._thrown, resampled(())
            flow = self._flow.taken([group.ticket for group in taken], waited)
            self._last = {**stats, **flow, "time/wait": waited}
            if self._rollouters[0].sampled.rounds:
                self._last |= thrown
            return Batch(tuple(taken), self._ledger.version)

    def _taken(self) -> list[Group] | None:
        """A batch, if it is complete; what is too old makes room for new groups."""
        version, oldest = self._ledger.version, self._taking.max_age
        if oldest is not None:
            late = self._ledger.older_than(version - oldest)
            if late:
                self._ledger.release(late, End.STALE)
                self._flow.dropped(late)
                self._ledger.admit()
                self._changed.notify_all()
        return self._ledger.take(lambda ticket: self._taking.key(ticket, version))

    def ack(self, batch: Batch) -> None:
        """Free the batch's slots."""
        with self._changed:
            self._ledger.release((group.ticket for group in batch.groups), End.TRAINED)
            self._ledger.admit()
            self._changed.notify_all()

    def bound(self, staleness: int, window: int) -> None:
        """Set S and W from now on."""
        with self._changed:
            self._ledger.bound(staleness=staleness, window=window)
            self._ledger.admit()
            self._changed.notify_all()

    def state_dict(self) -> dict[str, Any]:
        """The state of the ledger."""
        with self._changed:
            return self._ledger.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state of the ledger."""
        with self._changed:
            self._ledger.load_state_dict(state)

    def stats(self) -> Metrics:
        """Seconds of the threads since the last batch, and those that it was waited for."""
        return dict(self._last)

    def close(self) -> None:
        """End the threads; a group that is being generated or scored is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._rollouters[0].engine.close()
        deadline = time.monotonic() + SCORED
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while going := [thread for thread in self._threads if thread.is_alive()]:
            workers.stop()  # nobody waits for what they score, nor for what is queued behind it
            going[0].join(0.2)

    def _run(self, rollouter: Rollouter) -> None:
        """Roll out until there is no more; an error is raised again by :meth:`next_batch`."""
        try:
            while claimed := self._claimed():
                for _ in range(rollouter.sampled.rounds):
                    claimed = self._rolled_out(rollouter, claimed, last=False)
                self._rolled_out(rollouter, claimed, last=True)
        except ClosedError:
            pass
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _claimed(self) -> dict[int, int]:
        """Tickets to roll out, with the number of the attempt; none when the source is closed."""
        with self._changed:
            while True:
                if self._closed:
                    return {}
                if claimed := self._claim(self._share):
                    return claimed
                self._changed.wait()

    def _claim(self, most: int) -> dict[int, int]:
        claimed = dict[int, int]()
        while len(claimed) < most:
            ticket = self._ledger.claim(deadline=math.inf)
            if ticket is None:
                break
            claimed[ticket.id] = ticket.attempt
        self._flow.begun(claimed)
        return claimed

    def _rolled_out(
        self, rollouter: Rollouter, claimed: dict[int, int], *, last: bool
    ) -> dict[int, int]:
        """Generate, score and deliver; dull groups are replaced by tickets that are returned."""
        if not claimed:
            return {}
        stats = Metrics()
        groups = rollouter.groups([*claimed], stats)
        with self._changed:
            for name, value in stats.items():
                beside = name.replace("time/", "threads/")
                self._stats[beside] = self._stats.get(beside, 0.0) + value
            kept = [one for one in groups if last or rollouter.sampled.keep(one)]
            for group in kept:
                self._ledger.deliver(group.ticket, claimed[group.ticket], group)
            self._flow.delivered(group.ticket for group in kept)
            dull = claimed.keys() - {group.ticket for group in kept}
            for name, value in resampled([one for one in groups if one.ticket in dull]).items():
                self._thrown[name] += value
            self._ledger.release(dull, End.FILTERED)
            self._flow.dropped(dull)
            self._ledger.admit()
            self._heard = time.monotonic()
            self._changed.notify_all()
            return self._claim(len(dull))
