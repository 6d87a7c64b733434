"""What a batch says of the groups that passed and of who waited, by hand."""

import pytest

from polopt.coordination import flow as module
from polopt.coordination.flow import Flow
from polopt.coordination.ledger import End, Ledger
from polopt.rollout import timeline as times
from polopt.rollout.timeline import Interval, Timeline
from polopt.types import Group, Prompt


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "clock", made)
    monkeypatch.setattr(times, "clock", made)
    return made


def test_a_batch_by_hand(clock: Clock) -> None:
    """P = 2, S = 1: four tickets. Two engines are busy for 3 s and 2 s of the 10 s until the take.

    Ticket 0 takes 1 to 5, ticket 1 takes 1 to 4; the trainer waits from 5 to 10.
    """
    ledger, timeline = Ledger(2, staleness=1), Timeline()
    flow = Flow(ledger, timeline, engines=2)
    ledger.admit()
    clock.now = 101.0
    claimed = [ledger.claim(1e9) for _ in range(3)]
    flow.begun(ticket.id for ticket in claimed if ticket)
    for ticket, second in ((1, 104.0), (0, 105.0)):
        clock.now = second
        ledger.deliver(ticket, 1, Group(ticket, Prompt(ticket, "", (1,)), ()))
        flow.delivered([ticket])
    timeline.add(Interval("engine 1", "generate", 101.0, 104.0, 0, 1))
    timeline.add(Interval("engine 2", "generate", 103.0, 104.5, 0, 1))
    timeline.add(Interval("engine 2", "load", 104.5, 105.0, 0))
    timeline.add(Interval("rewards", "score", 104.0, 105.0, 0, 2))
    clock.now = 110.0
    assert ledger.take()
    assert flow.taken([0, 1], waited=5.0) == pytest.approx(
        {
            "groups/in_flight": 3.5,
            "groups/in_flight_max": 4.0,
            "groups/queue": 5.5,
            "groups/stale": 0.0,
            "groups/failed": 0.0,
            "slots/waiting": 1.0,
            "slots/running": 1.0,
            "slots/ready": 0.0,
            "slots/free": 0.0,
            "idle/trainer": 0.5,
            "idle/engines": 0.75,
            "lag/bound": 1.0,
        }
    )
    assert [one for one in timeline.taken() if one["what"] == "wait"] == [
        {"who": "trainer", "what": "wait", "start": 105.0, "end": 110.0, "version": 0, "tickets": 0}
    ]


def test_counts_are_those_since_the_batch_before(clock: Clock) -> None:
    ledger = Ledger(1, staleness=2)
    flow = Flow(ledger, max_age=1)
    for end, tickets in ((End.STALE, 2), (End.FAILED, 1)):
        ids = [ticket.id for ticket in ledger.admit()][:tickets]
        ledger.release(ids, end)
        flow.dropped(ids)
    clock.now += 1.0
    first, second = flow.taken([7], 0.0), flow.taken([8], 0.0)
    assert (first["groups/stale"], first["groups/failed"], first["lag/bound"]) == (2.0, 1.0, 1.0)
    assert (second["groups/stale"], second["groups/failed"]) == (0.0, 0.0)


def test_a_restored_ledger_counts_from_there(clock: Clock) -> None:
    ledger = Ledger(1)
    ledger.release([ticket.id for ticket in ledger.admit()], End.STALE)
    restored = Ledger(1)
    flow = Flow(restored)
    restored.load_state_dict(ledger.state_dict())
    flow.start()
    clock.now += 1.0
    assert flow.taken([1], 0.0)["groups/stale"] == 0.0
