"""Who did what, when: pieces of the same work are one interval, and a step has few of them."""

import pytest

from polopt.rollout.timeline import MOST, Interval, Timeline


def added(timeline: Timeline, *spans: tuple[float, float], who: str = "engine 1") -> None:
    for start, end in spans:
        timeline.add(Interval(who, "generate", start, end, version=3, tickets=1))


def test_pieces_without_a_break_are_one_interval() -> None:
    timeline = Timeline()
    added(timeline, (1.0, 2.0), (2.001, 3.0), (4.0, 5.0))
    assert timeline.taken() == [
        {
            "who": "engine 1",
            "what": "generate",
            "start": start,
            "end": end,
            "version": 3,
            "tickets": n,
        }
        for start, end, n in ((1.0, 3.0, 2), (4.0, 5.0, 1))
    ]
    assert timeline.taken() == []


def test_scores_of_several_threads_overlap() -> None:
    """They end in another order than they began in: 1 to 4 covers 2 to 3, and 3.5 to 6 goes on."""
    timeline = Timeline()
    added(timeline, (2.0, 3.0), (1.0, 4.0), (3.5, 6.0), (8.0, 9.0), (7.0, 7.5), who="rewards")
    found = [(one["start"], one["end"], one["tickets"]) for one in timeline.taken()]
    assert found == [(1.0, 6.0, 3), (7.0, 7.5, 1), (8.0, 9.0, 1)]


def test_the_seconds_of_every_score_stay() -> None:
    timeline = Timeline()
    for start, end in ((2.0, 3.0), (1.0, 4.0), (3.5, 6.0)):
        timeline.add(Interval("rewards", "score", start, end, 3, 1, calls=(end - start,)))
    with timeline.during("rewards", "score", 4, 2):
        pass
    with timeline.during("engine 1", "generate", 4):
        pass
    joined, timed, other = timeline.taken()
    assert (joined["end"], joined["calls"]) == (6.0, [1.0, 3.0, 2.5])
    assert len(timed["calls"]) == 1 and 0 <= timed["calls"][0] < 1
    assert "calls" not in other


def test_others_and_other_versions_are_apart() -> None:
    timeline = Timeline()
    added(timeline, (1.0, 2.0))
    added(timeline, (1.5, 2.5), who="engine 2")
    timeline.add(Interval("engine 1", "generate", 2.0, 3.0, version=4))
    assert [(one["who"], one["version"]) for one in timeline.taken()] == [
        ("engine 1", 3),
        ("engine 2", 3),
        ("engine 1", 4),
    ]


def test_a_step_has_so_many_intervals_and_the_longest_breaks_stay() -> None:
    timeline = Timeline()
    added(timeline, *((i, i + 0.99) for i in range(1000)), (2000.0, 2001.0), (3000.0, 3001.0))
    found = timeline.taken()
    assert len(found) == MOST
    assert found[-1]["start"] == 3000.0 and found[-2]["start"] == 2000.0
    assert sum(one["tickets"] for one in found) == 1002


def test_seconds_are_those_of_the_work_itself_also_of_what_is_going_on() -> None:
    timeline = Timeline()
    added(timeline, (1.0, 2.0), (2.001, 3.0), who="engine 2")
    added(timeline, (1.0, 1.5))
    assert timeline.seconds(["generate"]) == pytest.approx(2.499)
    timeline.taken()
    assert timeline.seconds(["generate", "load"]) == pytest.approx(2.499)
    with timeline.during("engine 1", "load", 4):
        before = timeline.seconds(["load"])
        assert 0 < before < timeline.seconds(["load"])
    assert timeline.seconds(["wait"]) == 0
    assert [one["what"] for one in timeline.taken()] == ["load"]


def test_what_fails_is_not_going_on() -> None:
    timeline = Timeline()
    with pytest.raises(ValueError), timeline.during("engine 1", "load", 4):
        raise ValueError
    assert timeline.seconds(["load"]) == 0 and timeline.taken() == []
