"""The ledger's invariants (I1 to I4, I8, I9), under adversarial schedules and by hand."""

import random
from itertools import count

import pytest

from polopt.coordination.ledger import End, Ledger, Ticket
from polopt.types import Group, Prompt


def group(ticket: int) -> Group:
    return Group(ticket, Prompt(ticket, "", (0,)), ())


ORDERS = {
    "oldest": lambda ticket: ticket.id,
    "newest": lambda ticket: -ticket.id,
    "random": lambda ticket: random.Random(ticket.id).random(),
}


def simulate(p: int, s: int, w: int, order: str, seed: int, steps: int = 12) -> tuple[int, Ledger]:
    """A trainer that takes whenever it can, and workers that finish in a hostile order."""
    rng = random.Random(seed)
    ledger = Ledger(p, staleness=s, window=w)
    version, worst, seen = 0, 0, set[int]()
    running: list[tuple[int, int, int]] = []  # ticket, attempt, version it is generated with
    born: dict[int, int] = {}
    while version < steps:
        for ticket in ledger.admit():
            assert ticket.born == ledger.version
            born[ticket.id] = ticket.born
        assert (
            sum(vars(ledger.stats())[k] for k in ("waiting", "running", "ready", "taken"))
            <= (s + 1) * p
        )
        while (claimed := ledger.claim(deadline=1e9)) is not None:
            running.append((claimed.id, claimed.attempt, ledger.version))
        if running and rng.random() < 0.8:
            index = rng.randrange(len(running)) if order == "random" else (0, -1)[order == "newest"]
            id, attempt, _ = running.pop(index)
            assert ledger.deliver(id, attempt, group(id))
        batch = ledger.take(ORDERS[order])
        if batch is None:
            continue
        ids = [g.ticket for g in batch]
        assert ids == sorted(ids) and len(ids) == p and not seen & set(ids)
        seen |= set(ids)
        worst = max(worst, max(version - born[id] for id in ids))
        version += 1
        ledger.published(version)
        ledger.release(ids, End.TRAINED)
    return worst, ledger


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("p", [1, 3, 4])
@pytest.mark.parametrize("s", [0, 1, 2])
@pytest.mark.parametrize("w", [1, 2, 6])
def test_lag_never_exceeds_the_bound(p: int, s: int, w: int, order: str) -> None:
    bound = (p * (s + 1) + w - 2) // p
    worst = 0
    for seed in range(5):
        lag, ledger = simulate(p, s, w, order, seed)
        assert ledger.lag_bound == bound
        worst = max(worst, lag)
    assert worst <= bound
    if s == 0 and w == 1:
        assert worst == 0  # strictly on-policy


def test_the_bound_is_reached_so_it_is_not_vacuous() -> None:
    worst = max(simulate(4, 2, 1, order, seed)[0] for order in ORDERS for seed in range(5))
    assert worst == 2  # (4·3 + 1 − 2) // 4


def plainly_taken(ledger: Ledger, p: int, w: int, order: str) -> list[int] | None:
    """What :meth:`Ledger.take` says, word by word: P times the first in order of the window."""
    left = sorted((t for t in ledger._live.values() if not t.taken), key=lambda t: t.id)
    chosen = list[Ticket]()
    for _ in range(p):
        ready = [t for t in left if t.group is not None and t.id < left[0].id + w]
        if not ready:
            return None
        chosen.append(min(ready, key=ORDERS[order]))
        left.remove(chosen[-1])
    return sorted(t.id for t in chosen)


@pytest.mark.parametrize("order", ORDERS)
def test_claims_and_batches_are_those_of_looking_at_every_ticket(order: str) -> None:
    """Claims fail, groups are filtered, and a batch is asked for after every event."""
    taken = 0
    for seed in range(40):
        rng = random.Random(seed)
        p, w = rng.randint(1, 5), rng.randint(1, 9)
        ledger = Ledger(p, staleness=rng.randint(0, 3), window=w)
        running = list[tuple[int, int]]()
        for _ in range(80):
            ledger.admit()
            waiting = [
                t.id for t in ledger._live.values() if t.group is None and t.deadline is None
            ]
            if rng.random() < 0.6:
                ticket = ledger.claim(deadline=1e9)
                assert (ticket and ticket.id) == (min(waiting) if waiting else None)
                running += [(ticket.id, ticket.attempt)] if ticket else []
            elif running:
                id, attempt = running.pop(rng.randrange(len(running)))
                match rng.randrange(8):
                    case 0:
                        ledger.fail(id, attempt)
                    case 1:
                        ledger.release([id], End.FILTERED)
                    case _:
                        ledger.deliver(id, attempt, group(id))
            expected = plainly_taken(ledger, p, w, order)
            batch = ledger.take(ORDERS[order])
            assert (batch and [g.ticket for g in batch]) == expected
            if batch:
                taken += 1
                ledger.published(ledger.version + 1)
                ledger.release([g.ticket for g in batch], End.TRAINED)
    assert taken > 100


def test_slots_are_freed_only_by_release() -> None:
    ledger = Ledger(2)
    assert [t.id for t in ledger.admit()] == [0, 1]
    assert ledger.admit() == []
    for _ in range(2):
        ticket = ledger.claim(deadline=1.0)
        assert ticket is not None
        ledger.deliver(ticket.id, ticket.attempt, group(ticket.id))
    assert ledger.take() is not None
    assert ledger.admit() == []  # taken but not trained: nothing may be born stale
    ledger.published(1)
    ledger.release([0, 1], End.TRAINED)
    assert [(t.id, t.born) for t in ledger.admit()] == [(2, 1), (3, 1)]


def test_a_filtered_ticket_is_replaced_at_once() -> None:
    ledger = Ledger(2)
    ledger.admit()
    ledger.release([0], End.FILTERED)
    assert [t.id for t in ledger.admit()] == [2]


def test_a_zombie_cannot_write_twice() -> None:
    ledger = Ledger(1)
    ledger.admit()
    first = ledger.claim(deadline=5.0)
    assert first is not None
    old_attempt = first.attempt
    assert ledger.reap(now=6.0) == [0]
    second = ledger.claim(deadline=20.0)
    assert second is not None and second.attempt == old_attempt + 1
    assert not ledger.deliver(0, old_attempt, group(0))
    assert ledger.deliver(0, second.attempt, group(0))
    assert not ledger.deliver(0, second.attempt, group(0))
    assert not ledger.deliver(99, 1, group(99))


def test_too_many_attempts_end_a_ticket_as_failed() -> None:
    ledger = Ledger(1, attempts=2)
    ledger.admit()
    for _ in range(2):
        ticket = ledger.claim(deadline=0.0)
        assert ticket is not None
        ledger.reap(now=1.0)
    assert ledger.ended[End.FAILED] == 1
    assert [t.id for t in ledger.admit()] == [1]


def test_a_ticket_ends_exactly_once() -> None:
    ledger = Ledger(1)
    ledger.admit()
    ledger.release([0], End.TRAINED)
    with pytest.raises(KeyError):
        ledger.release([0], End.TRAINED)


def test_versions_never_go_back() -> None:
    ledger = Ledger(1)
    ledger.published(3)
    with pytest.raises(ValueError, match="went back from 3 to 2"):
        ledger.published(2)


@pytest.mark.parametrize("crash_at", range(1, 9))
def test_resume_skips_no_prompt_and_doubles_none(crash_at: int) -> None:
    def run(ledger: Ledger, batches: int) -> list[int]:
        trained = list[int]()
        for _ in range(batches):
            ledger.admit()
            while (t := ledger.claim(deadline=1e9)) is not None:
                ledger.deliver(t.id, t.attempt, group(t.id))
            taken = ledger.take(lambda ticket: -ticket.id)
            assert taken is not None
            ledger.published(ledger.version + 1)
            ledger.release([g.ticket for g in taken], End.TRAINED)
            trained += [g.ticket for g in taken]
        return trained

    undisturbed = run(Ledger(3, staleness=2, window=4), 10)
    ledger = Ledger(3, staleness=2, window=4)
    before = run(ledger, crash_at)
    ledger.admit()
    ledger.claim(deadline=1e9)  # in flight when the process dies
    resumed = Ledger(3, staleness=2, window=4)
    resumed.load_state_dict(ledger.state_dict())
    after = run(resumed, 10 - crash_at)
    assert len(set(before + after)) == len(before + after)
    assert sorted(before + after)[:20] == sorted(undisturbed)[:20] == list(range(20))
    assert resumed.ended[End.TRAINED] == 30


def test_stats_count_every_state() -> None:
    ledger = Ledger(4)
    ledger.admit()
    numbers = count()
    for _ in range(3):
        ticket = ledger.claim(deadline=1e9)
        assert isinstance(ticket, Ticket)
        if next(numbers) == 0:
            ledger.deliver(ticket.id, ticket.attempt, group(ticket.id))
    stats = ledger.stats()
    assert (stats.waiting, stats.running, stats.ready, stats.taken, stats.free) == (1, 2, 1, 0, 0)
