"""Settings that are allowed and do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from polopt.diagnose.check import check
from polopt.recipe import load
from polopt.resolution import inert, resolve

GRPO: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum"},
}
FREE = {"kl.coefficient": 0.0}
TWICE = {**FREE, "update.epochs": 2}  # so that the ratio moves and the clip can bite
K3 = ["kl.estimator = k3 in the loss has the gradient of KL(pi_ref, pi)"]


@pytest.mark.parametrize(
    ("flags", "starts"),
    [
        (FREE, ["objective.clip_low has no effect", "objective.clip_high has no effect"]),
        (TWICE, []),
        ({**FREE, "update.minibatches": 2}, []),
        ({**FREE, "objective.bound": "none"}, []),
        ({"objective.bound": "none"}, K3),
        ({"update.epochs": 2}, K3),
        ({"update.epochs": 2, "kl.placement": "reward"}, ["kl.estimator = k3 in the reward"]),
        ({"update.epochs": 2, "kl.placement": "reward", "kl.estimator": "k1"}, []),
        ({**TWICE, "reward.verifier": "task", "reward.weight": 2.0}, ["reward.weight has no"]),
        ({**TWICE, "rollout.group_size": 2}, ["rollout.group_size = 2"]),
        ({**TWICE, "run.checkpoint_every": 500}, ["run.checkpoint_every = 500 has no effect"]),
        ({"algorithm": "gspo", "objective.aggregation": "token_mean"}, []),
        (
            {"algorithm": "gspo", "objective.aggregation": "seq_mean_token_sum"},
            ["objective.aggregation = seq_mean_token_sum multiplies a response by its length"],
        ),
        ({"algorithm": "sft"}, []),
        (
            {"algorithm": "sapo", "update.minibatches": 1},
            ["objective.tau_positive", "objective.tau_n"],
        ),
        ({"algorithm": "sapo"}, []),
        ({"algorithm": "kimi_opmd", "update.minibatches": 1}, ["objective.tau has no effect"]),
        ({"algorithm": "m2po", "update.minibatches": 1}, ["objective.second_moment has no effect"]),
        ({"algorithm": "cispo", "update.minibatches": 1}, []),  # a cap below 1 still acts
        ({"algorithm": "reinforce_pp", **TWICE}, []),
        ({"algorithm": "dsv32_grpo", "kl.estimator": "k1"}, []),
        (
            {"algorithm": "dsv32_grpo", "kl.estimator": "k2"},
            ["kl.importance_corrected: multiplied"],
        ),
        (
            {
                "algorithm": "rloo",
                "objective.correction": "token_tis",
                "objective.correction_high": 2.0,
            },
            ["objective.correction = token_tis has no effect beyond rounding"],
        ),
    ],
)
def test_inert(flags: dict[str, Any], starts: list[str]) -> None:
    lines = inert(resolve(load(GRPO, flags)).stages[0])
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


def test_one_step_is_no_steps() -> None:
    lines = inert(resolve(load(GRPO, {"run.steps": 1, "evaluation.every": 2})).stages[0])
    assert "evaluation.every = 2 has no effect: the stage ends after 1 step" in lines


def test_a_line_about_the_kl_reaches_whoever_stated_a_part_of_it() -> None:
    one = resolve(load(GRPO, {"kl.placement": "reward", "update.epochs": 2})).stages[0]
    assert len(inert(one, {"kl.placement"})) == 1
    assert inert(one, {"update.epochs", "kl.coefficient"}) == []


def test_check_says_who_decided() -> None:
    (one,) = check(GRPO, {"update.epochs": 2})
    decided = one["decided_by"]
    assert decided["update.epochs"] == "recipe"
    assert decided["update.minibatches"] == "row"
    assert decided["update.beta1"] == "default"
    assert decided.keys() == one["settings"].keys()
    assert one["settings"]["rewards"] == [
        {
            "weight": 1.0,
            "verifier": "task",
            "is_accuracy": False,
            "per_token": False,
            "refresh_every": 0,
            "timeout": 60.0,
            "on_error": "stop",
        }
    ]
    assert one["derived"]["optimiser_steps_per_batch"] == 2
