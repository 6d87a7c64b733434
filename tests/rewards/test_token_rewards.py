"""Rewards for the tokens of a completion: what a function may return, and where it then stands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from polopt.errors import RewardError
from polopt.rewards import Completions, RewardSpec, Scored, score
from polopt.types import Outcome, Prompt

NAN = math.nan
IDS = [[5, 6, 7], [5], []]  # completions of three tokens, of one and of none


def scored(*specs: RewardSpec) -> list[Scored]:
    prompts = [Prompt(i, "p", (1,)) for i in range(len(IDS))]
    return score([Completions(prompts, ["abc", "a", ""], IDS, seed=0)], specs)


def steps(returned: Any, **fields: Any) -> RewardSpec:
    settings: dict[str, Any] = {"name": "steps", "per_token": True, "on_error": "unscorable"}
    return RewardSpec(function=lambda: returned, **{**settings, **fields})


def whole(*numbers: float | None, **fields: Any) -> RewardSpec:
    return RewardSpec(
        **{"name": "whole", "function": lambda: list(numbers), "is_accuracy": True, **fields}
    )


def placed(*specs: RewardSpec) -> list[list[float]]:
    return [list(one.token_rewards or ()) for one in scored(*specs)]


def same(found: list[list[float]], expected: list[list[float]]) -> None:
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, nan_ok=True)


GIVEN = [[None, 1, 0.5], [NAN], []]


def test_steps_stand_at_their_tokens_and_their_sum_is_the_reward() -> None:
    found = scored(steps(GIVEN))
    same([list(one.token_rewards or ()) for one in found], [[NAN, 1.0, 0.5], [NAN], []])
    assert [one.reward for one in found] == [1.5, 0.0, 0.0]
    assert [one.parts for one in found] == [{"steps": 1.5}, {"steps": 0.0}, {"steps": 0.0}]
    assert {one.outcome for one in found} == {Outcome.SCORED}  # a sum of steps is no right answer


def test_a_reward_of_the_whole_stands_at_the_last_token() -> None:
    found = scored(whole(1.0, 0.0, 1.0, weight=2.0), steps(GIVEN, weight=0.5))
    same([list(one.token_rewards or ()) for one in found], [[NAN, 0.5, 2.25], [0.0], []])
    assert [one.reward for one in found] == [2.75, 0.0, 2.0]
    assert found[0].parts == {"whole": 1.0, "steps": 1.5}


def test_several_functions_add_up_where_they_speak() -> None:
    other = steps([[1, None, 1], [3], []], name="other", weight=-1.0)
    same(placed(steps(GIVEN), other), [[-1.0, 1.0, -0.5], [-3.0], []])


def test_a_weight_of_zero_leaves_a_metric() -> None:
    found = scored(whole(1.0, 1.0, 1.0, weight=0.0), steps(GIVEN))
    same([list(one.token_rewards or ()) for one in found], [[NAN, 1.0, 0.5], [NAN], []])
    assert found[0].parts["whole"] == 1.0
    assert found[1].outcome is Outcome.OK  # the first reward says what is right


def test_what_does_not_apply_is_nowhere() -> None:
    found = scored(steps([None, [2.0], None]), whole(None, 1.0, None))
    assert math.isnan(found[0].reward)
    assert found[0].outcome is Outcome.UNSCORABLE
    assert found[1].token_rewards == (3.0,)


def test_without_a_reward_per_token_nothing_is_placed() -> None:
    assert [one.token_rewards for one in scored(whole(1.0, 0.0, 0.5))] == [None] * 3


@pytest.mark.parametrize(
    "row",
    [
        np.array([np.nan, 1.0, 0.5]),
        torch.tensor([math.nan, 1.0, 0.5]),
        (None, np.float32(1.0), torch.tensor(0.5)),
        [None, True, 0.5],
    ],
    ids=["array", "tensor", "scalars", "bool"],
)
def test_numbers_of_numpy_and_torch(row: Any) -> None:
    same(placed(steps([row, [None], []])), [[NAN, 1.0, 0.5], [NAN], []])


@pytest.mark.parametrize(
    ("returned", "outcome", "told"),
    [
        ([[1, 2], [1], []], Outcome.ERROR, "row 0: returned 2 values; 3 numbers (or None), one"),
        ([[1, 2, 3], [1], [1]], Outcome.ERROR, "row 2: returned 1 values; 0 numbers"),
        ([1.0, 1.0, 1.0], Outcome.ERROR, "row 0: returned a value of type float; 3 numbers"),
        ([["a", 1, 2], [1], []], Outcome.ERROR, "row 0: returned a value of type str; a number"),
        ([[math.inf, 1, 2], [1], []], Outcome.UNSCORABLE, "row 0: returned inf; a finite number"),
        ([[1, 2, 3], [1]], Outcome.ERROR, "returned 2 values; a list of 3 lists (or None), one"),
        (None, Outcome.ERROR, "returned None; a list of 3 lists"),
        (np.zeros((3, 3)), Outcome.ERROR, "returned values of shape (3, 3); a list of 3 lists"),
    ],
)
def test_what_is_refused(returned: Any, outcome: Outcome, told: str) -> None:
    with pytest.raises(RewardError) as error:
        scored(steps(returned, on_error="stop"))
    assert told in str(error.value), str(error.value)
    found = scored(steps(returned))
    assert outcome in {one.outcome for one in found}
    bad = [one for one in found if one.outcome is outcome]
    assert all(math.isnan(one.reward) for one in bad)
