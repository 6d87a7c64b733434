"""The prompts in flight, and how stale their responses may be. Pure bookkeeping, no I/O.

A ticket is a place in the prompt stream. At most (S + 1)·P tickets are live, and a batch of P takes
them inside a window of W from the oldest, so the policy lag at consumption is at most
(P(S + 1) + W − 2) // P versions. S = 0, W = 1 is strictly on-policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import Any

from polopt.types import Group


class End(StrEnum):
    """How a ticket ended; every ticket ends exactly once."""

    TRAINED = "trained"
    FILTERED = "filtered"
    FAILED = "failed"
    STALE = "stale"


@dataclass
class Ticket:
    """One prompt in flight between the stream and the learners; internal to the ledger."""

    id: int
    born: int  # policy version when it was admitted
    attempt: int = 0  # of the claims; a delivery must name the current one
    deadline: float | None = None  # None: unclaimed
    group: Group | None = None
    taken: bool = False


@dataclass(frozen=True)
class Stats:
    """Counts of the live tickets by state."""

    waiting: int
    running: int
    ready: int
    taken: int
    free: int
    oldest_lag: int


def version_of(group: Group, born: int) -> int:
    """The version of the oldest token of a group; ``born`` where nothing says so."""
    return min((span.version for one in group.samples for span in one.spans), default=born)


def oldest(ticket: Ticket) -> int:
    """The version of the oldest token of a group that was delivered."""
    return ticket.born if ticket.group is None else version_of(ticket.group, ticket.born)


class Ledger:
    """Admits, hands out, takes back and ends tickets."""

    def __init__(
        self, prompts_per_step: int, *, staleness: int = 0, window: int = 1, attempts: int = 3
    ) -> None:
        self._batch = prompts_per_step
        self._capacity = prompts_per_step * (staleness + 1)
        self._window = window
        self._attempts = attempts
        self._live: dict[int, Ticket] = {}  # in the order of their ids
        self._unclaimed: list[int] = []  # heap of ids; those that ended meanwhile are still in it
        self._ready = 0  # delivered and not taken
        self._frontier = 0  # every id below it has ended
        self._ended_above: set[int] = set()
        self._next = 0
        self.version = 0
        self.ended = dict.fromkeys(End, 0)

    @property
    def capacity(self) -> int:
        """The largest number of live tickets, (S + 1)·P."""
        return self._capacity

    @property
    def lag_bound(self) -> int:
        """The largest lag, in versions, that a consumed token can have.

        After :meth:`bound` that of the largest S and W in force since its ticket was born.
        """
        return (self._capacity + self._window - 2) // self._batch

    def bound(self, *, staleness: int, window: int) -> None:
        """Set S and W from now on: tickets beyond a smaller capacity stay until they end."""
        self._capacity = self._batch * (staleness + 1)
        self._window = window

    def admit(self) -> list[Ticket]:
        """Fill the free slots with the next places of the stream, born at the current version."""
        admitted = list[Ticket]()
        while len(self._live) < self._capacity:
            if self._next not in self._ended_above:
                ticket = Ticket(self._next, self.version)
                self._live[ticket.id] = ticket
                heappush(self._unclaimed, ticket.id)
                admitted.append(ticket)
            self._next += 1
        return admitted

    def claim(self, deadline: float) -> Ticket | None:
        """Claim the oldest unclaimed ticket until ``deadline``."""
        while self._unclaimed:
            ticket = self._live.get(heappop(self._unclaimed))
            if ticket is not None:
                ticket.attempt += 1
                ticket.deadline = deadline
                return ticket
        return None

    def deliver(self, id: int, attempt: int, group: Group) -> bool:
        """Accept a finished group; False if the claim is no longer the current one."""
        ticket = self._live.get(id)
        if ticket is None or ticket.attempt != attempt or ticket.deadline is None:
            return False
        ticket.group, ticket.deadline = group, None
        self._ready += 1
        return True

    def fail(self, id: int, attempt: int) -> None:
        """A claim failed: another attempt, or the end of the ticket after too many."""
        ticket = self._live.get(id)
        if ticket is None or ticket.attempt != attempt or ticket.deadline is None:
            return
        ticket.deadline = None
        if ticket.attempt >= self._attempts:
            self.release([id], End.FAILED)
        else:
            heappush(self._unclaimed, id)

    def reap(self, now: float) -> list[int]:
        """Fail every claim whose deadline has passed; return their ids."""
        late = [t for t in self._live.values() if t.deadline is not None and t.deadline < now]
        for ticket in late:
            self.fail(ticket.id, ticket.attempt)
        return [ticket.id for ticket in late]

    def take(self, key: Callable[[Ticket], Any] = lambda ticket: ticket.id) -> list[Group] | None:
        """A batch of P groups inside the window, sorted by ticket; None while it is incomplete.

        Args:
            key: order inside the window, smallest first.
        """
        if self._ready < self._batch:
            return None
        chosen = self._chosen(key)
        if chosen is None:
            return None
        for ticket in chosen:
            ticket.taken = True
        self._ready -= len(chosen)
        groups = [ticket.group for ticket in sorted(chosen, key=lambda t: t.id)]
        return [group for group in groups if group is not None]

    def _chosen(self, key: Callable[[Ticket], Any]) -> list[Ticket] | None:
        """P tickets of the window, one after another: each time one is chosen it may move."""
        rest = deque[Ticket]()  # inside the window, by id; some of them are chosen
        beyond = (ticket for ticket in self._live.values() if not ticket.taken)
        ready: list[tuple[Any, int]] = []  # heap of those that may be chosen
        chosen = dict[int, Ticket]()
        following = next(beyond, None)
        while len(chosen) < self._batch:
            while rest and rest[0].id in chosen:
                rest.popleft()
            # Anchored at the oldest: a slow group blocks the batch instead of growing stale.
            anchor = rest[0] if rest else following
            while anchor and following and following.id < anchor.id + self._window:
                rest.append(following)
                if following.group is not None:
                    heappush(ready, (key(following), following.id))
                following = next(beyond, None)
            if not ready:
                return None
            _, id = heappop(ready)
            chosen[id] = self._live[id]
        return list(chosen.values())

    def older_than(self, version: int) -> list[int]:
        """Delivered groups, not taken yet, with a token of an older version."""
        return [
            ticket.id
            for ticket in self._live.values()
            if ticket.group is not None and not ticket.taken and oldest(ticket) < version
        ]

    def release(self, ids: Iterable[int], end: End) -> None:
        """End tickets and free their slots. Only this drops a ticket.

        Trained ones are released after the new weights are served, so that no ticket starts stale.
        """
        for id in ids:
            ticket = self._live.pop(id)
            self._ready -= ticket.group is not None and not ticket.taken
            self._ended_above.add(id)
            self.ended[end] += 1
        while self._frontier in self._ended_above:
            self._ended_above.remove(self._frontier)
            self._frontier += 1
        self._next = max(self._next, self._frontier)  # after a resume the frontier may overtake it

    def published(self, version: int) -> None:
        """New weights are served; tickets are born at this version from now on."""
        if version < self.version:
            raise ValueError(f"version went back from {self.version} to {version}")
        self.version = version

    def stats(self) -> Stats:
        """Counts of the live tickets by state, for logs and the message of a stall."""
        live = self._live.values()
        return Stats(
            waiting=sum(t.group is None and t.deadline is None for t in live),
            running=sum(t.deadline is not None for t in live),
            ready=sum(t.group is not None and not t.taken for t in live),
            taken=sum(t.taken for t in live),
            free=max(0, self._capacity - len(self._live)),
            oldest_lag=max((self.version - t.born for t in live), default=0),
        )

    def state_dict(self) -> dict[str, Any]:
        """The frontier and the tickets that ended above it: those in flight are issued again."""
        return {
            "frontier": self._frontier,
            "ended_above": sorted(self._ended_above),
            "version": self.version,
            "ended": {end.value: count for end, count in self.ended.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken: no prompt skipped, none doubled."""
        self._live.clear()
        self._unclaimed.clear()
        self._ready = 0
        self._frontier = self._next = state["frontier"]
        self._ended_above = set(state["ended_above"])
        self.version = state["version"]
        self.ended = {End(end): count for end, count in state["ended"].items()}
