"""Which stages leave rows without advantage out, and which ask for old log-probs first."""

from __future__ import annotations

from typing import Any

import pytest

from polopt.assembly.objective import objective_of, old_is_new, policy_gradient
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve

BASE: dict[str, Any] = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:chain_sum"}}


def stage(name: str, **flags: Any) -> StageRecipe:
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(load({**BASE, "algorithm": name}, given)).stages[0]


@pytest.mark.parametrize(
    ("name", "flags", "left_out"),
    [
        ("grpo", {"kl__coefficient": 0.0}, True),
        ("grpo", {"kl__coefficient": 0.1}, False),  # the KL acts on every row
        ("grpo", {"kl__coefficient": 0.0, "objective__entropy_coefficient": 0.01}, False),
        ("dapo", {}, True),
        ("kimi_opmd", {}, False),  # its squared log-ratio acts on every row
    ],
)
def test_rows_are_left_out_where_they_add_nothing(
    name: str, flags: dict[str, Any], left_out: bool
) -> None:
    one = stage(name, **flags)
    assert objective_of(one).vanishes is left_out
    assert (policy_gradient(one).idle is not None) is left_out


@pytest.mark.parametrize(
    ("name", "flags", "left_to_gradient"),
    [
        ("grpo", {}, True),
        ("grpo", {"update__epochs": 2}, False),
        ("grpo", {"update__minibatches": 2}, False),
        ("rloo", {}, False),  # the KL is in the reward
        ("m2po", {}, False),  # tokens leave the loss by it
        ("trpo", {}, False),
    ],
)
def test_old_log_probs_are_left_to_the_gradient_where_nobody_asks_before(
    name: str, flags: dict[str, Any], left_to_gradient: bool
) -> None:
    assert old_is_new(stage(name, **flags)) is left_to_gradient
