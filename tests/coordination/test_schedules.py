"""The ledger under thousands of random schedules: workers, zombies, crashes, changing bounds.

Every transition is random, and after each of them a model that knows nothing of the ledger's inside
says what must hold. I1, I2, I3, I4, I7, I8 and I9 of the invariants are here; S and W change on the
way, and at any point the process may die and go on from its last checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from polopt.coordination.ledger import End, Ledger, Ticket, oldest
from polopt.types import Group, Prompt, Sample, Span

SCHEDULES = 2000
MOVES = 40
ATTEMPTS = 3


EMPTY = np.zeros(0)


def group(ticket: int, *versions: int) -> Group:
    """A group whose tokens are of these versions."""
    spans = tuple(Span(version, i, i + 1) for i, version in enumerate(versions))
    return Group(ticket, Prompt(ticket, "", ()), (Sample(EMPTY, EMPTY, EMPTY, 0, spans),))


@dataclass
class Claim:
    id: int
    attempt: int
    version: int  # served when it began
    deadline: float


@dataclass
class Born:
    version: int
    capacity: int  # in force at its birth
    window: int  # the largest since


@dataclass
class Simulation:
    """A trainer, workers and a clock, whose every move is drawn."""

    seed: int
    moves: int = 0
    now: float = 0.0
    claims: list[Claim] = field(default_factory=list[Claim])
    zombies: list[Claim] = field(default_factory=list[Claim])
    born: dict[int, Born] = field(default_factory=dict[int, Born])
    taken: list[int] = field(default_factory=list[int])
    ended: dict[int, End] = field(default_factory=dict[int, End])
    tried: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.p = self.draw.randint(1, 4)
        self.s, self.w = self.draw.randint(0, 3), self.draw.choice((1, 2, 5, 9))
        self.version = 0
        self.ledger = self._new()
        self.saved = self._state()  # of the newest checkpoint

    def _state(self) -> tuple[dict[str, Any], dict[int, End], int]:
        return self.ledger.state_dict(), dict(self.ended), self.version

    def _new(self) -> Ledger:
        return Ledger(self.p, staleness=self.s, window=self.w, attempts=ATTEMPTS)

    @property
    def capacity(self) -> int:
        return self.p * (self.s + 1)

    def live(self) -> set[int]:
        return self.born.keys() - self.ended.keys()

    def run(self) -> None:
        ordinary = [self.admit, self.claim, self.deliver, self.take, self.train]
        rare = [self.late, self.zombie, self.fail, self.filter, self.stale, self.bound, self.crash]
        for _ in range(MOVES):
            moves = rare if self.draw.random() < 0.15 else ordinary
            self.draw.choice(moves)()
            self.check()
        self.finish()

    # the moves

    def admit(self) -> None:
        before = len(self.live())
        for ticket in self.ledger.admit():
            assert ticket.id not in self.born, "a prompt came twice"
            assert ticket.born == self.version  # I4: no ticket is born stale
            self.born[ticket.id] = Born(self.version, self.capacity, self.w)
        assert len(self.live()) == max(before, self.capacity)  # I1: every free slot, and no more

    def claim(self) -> None:
        ticket = self.ledger.claim(deadline=self.now + 1)
        if ticket is not None:
            self.tried[ticket.id] = self.tried.get(ticket.id, 0) + 1
            assert ticket.id not in {claim.id for claim in self.claims}
            self.claims.append(Claim(ticket.id, ticket.attempt, self.version, self.now + 1))

    def deliver(self) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(self.draw.randrange(len(self.claims)))
        versions = sorted(self.draw.choices(range(claim.version, self.version + 1), k=2))
        assert self.ledger.deliver(claim.id, claim.attempt, group(claim.id, *versions))
        self.zombies.append(claim)  # it may answer again

    def late(self) -> None:
        """I7: nobody waits for a worker for ever."""
        self.now += self.draw.choice((0.5, 1.5))
        late = [claim for claim in self.claims if claim.deadline < self.now]
        assert sorted(self.ledger.reap(self.now)) == sorted(claim.id for claim in late)
        self._lost(late)

    def fail(self) -> None:
        if self.claims:
            claim = self.draw.choice(self.claims)
            self.ledger.fail(claim.id, claim.attempt)
            self._lost([claim])

    def _lost(self, claims: list[Claim]) -> None:
        for claim in claims:
            self.claims.remove(claim)
            self.zombies.append(claim)
            if self.tried[claim.id] == ATTEMPTS:
                self._end(claim.id, End.FAILED)

    def zombie(self) -> None:
        """I8: who lost a claim, or answered, cannot answer any more."""
        if self.zombies:
            claim = self.draw.choice(self.zombies)
            assert not self.ledger.deliver(claim.id, claim.attempt, group(claim.id, self.version))
            self.ledger.fail(claim.id, claim.attempt)

    def take(self) -> None:
        if self.taken:
            return
        waiting = sorted(self.live())
        orders: list[Callable[[Ticket], Any]] = [
            lambda ticket: ticket.id,
            lambda ticket: -ticket.id,
            lambda ticket: random.Random(ticket.id).random(),
        ]
        groups = self.ledger.take(self.draw.choice(orders))
        if groups is None:
            return
        self.taken = [one.ticket for one in groups]
        assert self.taken == sorted(set(self.taken)) and len(self.taken) == self.p
        assert set(self.taken) <= set(waiting)
        left = [id for id in waiting if id not in self.taken]
        if left:  # anchored at the oldest that was left behind
            assert max(self.taken) < left[0] + self.w
        for one in groups:
            born = self.born[one.ticket]
            spans = [span.version for sample in one.samples for span in sample.spans]
            assert born.version <= min(spans) and spans == sorted(spans)  # I4
            bound = (born.capacity + born.window - 2) // self.p
            assert self.version - min(spans) <= bound  # I3

    def train(self) -> None:
        """I2: slots of what is trained on are free after the new weights are served."""
        if not self.taken:
            return
        assert self.ledger.stats().taken == self.p
        self.version += 1
        self.ledger.published(self.version)
        self._release(self.taken, End.TRAINED)
        self.taken = []
        if self.draw.random() < 0.5:
            self.saved = self._state()

    def filter(self) -> None:
        ready = self.ledger.older_than(self.version + 1)  # all that are delivered and not taken
        if ready:
            self._release([self.draw.choice(ready)], End.FILTERED)

    def stale(self) -> None:
        self._release(self.ledger.older_than(self.version - self.draw.randint(0, 2)), End.STALE)

    def bound(self) -> None:
        self.s, self.w = self.draw.randint(0, 3), self.draw.choice((1, 2, 5, 9))
        self.ledger.bound(staleness=self.s, window=self.w)
        for id in self.live():
            self.born[id].window = max(self.born[id].window, self.w)

    def crash(self) -> None:
        """I9: what was not ended at the checkpoint is issued again, and nothing else is."""
        state, ended, version = self.saved
        self.ledger = self._new()
        self.ledger.load_state_dict(state)
        self.zombies, self.claims, self.taken = [], [], []
        self.version, self.ended, self.tried = version, dict(ended), {}
        self.born = {id: born for id, born in self.born.items() if id in ended}
        assert self.ledger.version == version

    def _release(self, ids: list[int], end: End) -> None:
        self.ledger.release(ids, end)
        for id in ids:
            self._end(id, end)

    def _end(self, id: int, end: End) -> None:
        assert id not in self.ended, "a ticket ended twice"
        self.ended[id] = end

    # what must hold

    def check(self) -> None:
        stats = self.ledger.stats()
        assert stats.running == len(self.claims)
        assert stats.taken == len(self.taken)
        assert stats.waiting + stats.running + stats.ready + stats.taken == len(self.live())
        assert stats.free == max(0, self.capacity - len(self.live()))

    def finish(self) -> None:
        """No deadlock: workers that answer at once bring the next batches, whatever came before."""
        for _ in range(2):
            self.train()
            while not self.taken:
                before = self.ledger.stats()
                self.admit()
                self.claim()
                while self.claims:
                    self.deliver()
                self.take()
                assert self.taken or self.ledger.stats() != before, "nothing moves"
            self.check()
        self.train()
        assert self.ledger.ended == {end: [*self.ended.values()].count(end) for end in End}
        known = set(range(max(self.born) + 1))
        assert self.born.keys() == known, "a prompt was skipped"


@pytest.mark.parametrize("part", range(4))
def test_the_invariants_hold_under_random_schedules(part: int) -> None:
    for seed in range(part, SCHEDULES, 4):
        try:
            Simulation(seed).run()
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise


def test_the_schedules_are_not_vacuous() -> None:
    """They reach every way to end, the largest lag, smaller and larger bounds, and crashes."""
    ends, lags, crashes = set[End](), set[int](), 0

    class Watched(Simulation):
        def take(self) -> None:
            before = self.taken
            super().take()
            if self.taken is not before:
                lags.update(self.version - self.born[id].version for id in self.taken)

        def crash(self) -> None:
            nonlocal crashes
            crashes += bool(self.claims)
            super().crash()

    for seed in range(300):
        one = Watched(seed)
        one.run()
        ends.update(one.ended.values())
    assert ends == {*End} and crashes > 20
    assert {0, 1, 2, 3} <= lags


def test_a_lower_capacity_admits_nobody_until_enough_have_ended() -> None:
    ledger = Ledger(2, staleness=2)
    assert [ticket.id for ticket in ledger.admit()] == [*range(6)]
    ledger.bound(staleness=0, window=1)
    assert ledger.lag_bound == 0 and ledger.stats().free == 0
    ledger.release([0, 1, 2, 3], End.FILTERED)
    assert ledger.admit() == []
    ledger.release([4], End.FILTERED)
    assert [ticket.id for ticket in ledger.admit()] == [6]
    ledger.bound(staleness=1, window=1)
    assert [ticket.id for ticket in ledger.admit()] == [7, 8]


def test_a_lower_window_holds_at_once() -> None:
    ledger = Ledger(1, staleness=3, window=4)
    ledger.admit()
    claims = [ledger.claim(deadline=1.0) for _ in range(4)]
    for ticket in claims[1:]:
        assert ticket is not None and ledger.deliver(ticket.id, 1, group(ticket.id, 0))
    ledger.bound(staleness=3, window=1)
    assert ledger.take() is None  # 0 is slow, and nothing may be taken before it
    ledger.bound(staleness=3, window=2)
    taken = ledger.take()
    assert taken is not None and [one.ticket for one in taken] == [1]


def test_the_oldest_token_decides_the_age() -> None:
    ticket = Ticket(0, born=1, group=group(0, 2, 3))
    assert oldest(ticket) == 2
    assert oldest(Ticket(0, born=1)) == 1
