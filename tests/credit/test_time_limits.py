"""Steps of several episodes in a row: what crosses an end, what a time limit, and what neither."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polopt.assembly.chosen import chosen
from polopt.credit import Credit, assign, earned, step_action_value, step_gae
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.types import Advantages, Experience

NOWHERE = [False, False, False]


def credited(returns: Any, terminated: list[bool], cut: list[bool], **fields: Any) -> Advantages:
    """Rewards 1, 2, 3; V is 4, 5, 6, and 10, 20, 30 where each step led to."""
    given = {
        "step_rewards": [1.0, 2.0, 3.0],
        "values": [4.0, 5.0, 6.0],
        "next_values": [10.0, 20.0, 30.0],
    }
    tensors = {name: torch.tensor([value]) for name, value in {**given, **fields}.items()}
    experience = Experience(
        mask=torch.ones(1, 3, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=torch.zeros(1),
        terminated=torch.tensor([terminated]),
        cut=torch.tensor([cut]),
        **tensors,
    )
    return assign(experience, Credit(shapers=(earned,), returns=returns))


@pytest.mark.parametrize(
    ("terminated", "cut", "expected"),
    [
        # γ = ½: δ = 1 + 5 - 4, 2 + 10 - 5, 3 + 15 - 6 = 2, 7, 12; γλ = ¼
        (NOWHERE, NOWHERE, [2 + 10 / 4, 7 + 12 / 4, 12]),
        # the second step is cut: 20 still counts, the third belongs to another episode
        (NOWHERE, [False, True, False], [2 + 7 / 4, 7, 12]),
        # it is an end: δ = 2 - 5, and nothing follows
        ([False, True, False], NOWHERE, [2 - 3 / 4, -3, 12]),
        ([False, True, False], [False, True, False], [2 - 3 / 4, -3, 12]),
        # every step is an episode
        (NOWHERE, [True, True, True], [2, 7, 12]),
        ([True, True, True], NOWHERE, [-3, -3, -3]),
    ],
)
def test_no_trace_runs_into_the_next_episode(
    terminated: list[bool], cut: list[bool], expected: list[float]
) -> None:
    found = credited(step_gae(0.5, 0.5), terminated, cut)
    assert found.advantages[0].tolist() == pytest.approx(expected)
    assert found.value_targets is not None
    targets = [a + v for a, v in zip(expected, (4, 5, 6), strict=True)]
    assert found.value_targets[0].tolist() == pytest.approx(targets)


def test_targets_with_a_trace_of_their_own_end_there_too() -> None:
    """λ = 1: 2 + (γ = ½)·7 = 5½ and 7 at the limit, 12 after it; with V 9½, 12 and 18."""
    found = credited(step_gae(0.5, 0.5, critic_lam=1.0), NOWHERE, [False, True, False])
    assert found.advantages[0].tolist() == pytest.approx([2 + 7 / 4, 7, 12])
    assert found.value_targets is not None
    assert found.value_targets[0].tolist() == pytest.approx([9.5, 12, 18])


def test_a_recipe_in_control_may_give_the_targets_a_trace_of_their_own() -> None:
    """The same numbers: V and the advantage of λ = ½, V and the return of λ = 1."""
    recipe = {
        "algorithm": "ppo",
        "model": {"path": "builtin:mlp"},
        "data": {"source": "control:cartpole"},
        "credit": {"gamma": 0.5, "lambda": 0.5},
    }
    for flags, targets in (
        ({}, [4 + 2 + 7 / 4, 12, 18]),
        ({"credit.critic_lambda": 1.0}, [9.5, 12, 18]),
    ):
        returns = chosen("returns", resolve(load(recipe, flags)).stages[0])
        found = credited(returns, NOWHERE, [False, True, False])
        assert found.advantages[0].tolist() == pytest.approx([2 + 7 / 4, 7, 12])
        assert found.value_targets is not None
        assert found.value_targets[0].tolist() == pytest.approx(targets)


def test_the_value_of_an_action_counts_what_follows_a_time_limit() -> None:
    """Targets r + ½ of what followed: 1 + 5, 2 + 10 or 2, 3 + 15."""
    for ends, cuts, second in (
        (NOWHERE, [False, True, False], 12.0),
        ([False, True, False], NOWHERE, 2.0),
    ):
        found = credited(step_action_value(0.5), ends, cuts)
        assert found.value_targets is not None
        assert found.value_targets[0].tolist() == [6.0, second, 18.0]
