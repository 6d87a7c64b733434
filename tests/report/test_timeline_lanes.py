"""The timeline of the page, by hand."""

import pytest

from polopt.report.timeline import STEPS, lanes


def row(who: str, what: str, start: float, end: float, step: int = 1) -> dict:
    return {"who": who, "what": what, "start": start, "end": end, "step": step}


ROWS = [
    row("trainer", "wait", 100.0, 102.0),
    row("trainer", "update", 102.0, 107.0),
    row("rewards", "score", 101.0, 102.0),
    row("engine 10", "generate", 100.0, 101.0),
    row("engine 2", "load", 107.0, 110.0),
    row("engine 2", "prove", 108.0, 110.0),
]


def test_shares_by_hand() -> None:
    """Of 10 s the trainer waits 2 and updates 5; engine 2 loads for 1 and proves for 2."""
    found = lanes(ROWS)
    assert found is not None and (found.first, found.last, found.whole) == (1, 1, 10.0)
    assert [lane.who for lane in found.lanes] == ["trainer", "engine 2", "engine 10", "rewards"]
    assert [lane.idle for lane in found.lanes] == pytest.approx([0.5, 0.7, 0.9, 0.9])
    trainer, second, *_ = found.lanes
    assert [(bar.what, bar.left, bar.width) for bar in trainer.shares] == [
        ("update", 0.0, 50.0),
        ("wait", 50.0, 20.0),
    ]
    assert [(bar.what, bar.width) for bar in second.shares] == [("load", 10.0), ("prove", 20.0)]
    assert [(bar.what, bar.left, bar.width) for bar in second.bars] == [
        ("load", 70.0, 30.0),
        ("prove", 80.0, 20.0),  # on top of what it is a part of
    ]
    assert "trainer: updates 50.0" in found.summary and "idle 50.0" in found.summary


def test_the_last_steps_are_drawn_and_all_are_counted() -> None:
    rows = [row("trainer", "update", s, s + 0.5, s) for s in range(1, 41)]
    rows += [row("engine 1", "generate", s, s + 1.0, s) for s in range(1, 41)]
    found = lanes(rows)
    assert found is not None and (found.first, found.last) == (41 - STEPS, 40)
    assert [len(lane.bars) for lane in found.lanes] == [STEPS, STEPS]
    assert found.lanes[0].idle == pytest.approx(0.5)


def test_where_the_trainer_is_alone_nothing_is_drawn() -> None:
    assert lanes(ROWS[:2]) is None and lanes([]) is None


def test_what_is_no_interval_is_left_out() -> None:
    odd = [row("engine 1", "dance", 100.0, 109.0), row("engine 3", "generate", 109.0, 101.0)]
    nan, inf = float("nan"), float("inf")
    odd += [row("engine 3", "load", *times) for times in ((nan, 1.0), (1.0, nan), (1.0, inf))]
    found = lanes([*ROWS, *odd])
    assert found is not None and "engine 3" not in [lane.who for lane in found.lanes]


def test_an_instant_is_seen() -> None:
    found = lanes([row("trainer", "wait", 1.0, 1.0), row("rewards", "score", 1.0, 1.0)])
    assert found is not None and all(bar.width > 0 for lane in found.lanes for bar in lane.bars)
