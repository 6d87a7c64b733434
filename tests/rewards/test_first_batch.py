from __future__ import annotations

import math

from polopt.rewards import Scored, first_batch_report
from polopt.types import Outcome


def batch(*rewards, outcome=Outcome.WRONG):
    return [
        Scored(r, {"task": r}, Outcome.UNSCORABLE if math.isnan(r) else outcome) for r in rewards
    ]


def test_range_and_mean():
    assert first_batch_report(batch(0.0, 1.0, 1.0, 0.0), ["task"]) == [
        "rewards of the first batch: 4 of 4 scored, from 0 to 1, mean 0.5"
    ]


def test_equal_rewards_are_told():
    assert first_batch_report(batch(*[0.0] * 128), ["task"])[-1] == (
        "all 128 rewards are equal: no gradient will flow"
    )


def test_unscored_by_reason():
    scored = [*batch(0.0, 1.0), *batch(math.nan, math.nan)]
    scored.append(Scored(math.nan, {"task": math.nan}, Outcome.TIMEOUT))
    assert first_batch_report(scored, ["task"]) == [
        "rewards of the first batch: 2 of 5 scored, from 0 to 1, mean 0.5",
        "not scored, so not trained on: unscorable 2, timeout 1",
    ]


def test_nothing_scored():
    assert first_batch_report(batch(math.nan), ["task"])[-1].startswith("no reward at all")
    assert first_batch_report([], ["task"])[0] == "rewards of the first batch: 0 of 0 scored"


def test_each_part_of_several():
    scored = [Scored(1.5, {"a": 1.0, "b": 0.5}, Outcome.OK), Scored(0.25, {"b": 0.25}, Outcome.OK)]
    assert first_batch_report(scored, ["a", "b"])[1:] == [
        "  a: applies to 1 of 2, from 1 to 1, mean 1",
        "  b: applies to 2 of 2, from 0.25 to 0.5, mean 0.375",
    ]
