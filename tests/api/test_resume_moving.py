"""What follows the run beside the weights is in every checkpoint: resuming leads to the bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import even, variety
from runs import assert_same, from_step, metrics

STEPS = 4
BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8},
    "update": {"learning_rate": 1e-2},
    "evaluation": {"prompts": 4},
    "run": {"seed": 1, "threads": 1, "checkpoint_every": 1, "keep": 100, "steps": STEPS},
}
MOVING = {  # what moves: the flags that make it, and a metric that shows it
    "ema": ({"algorithm": "reinforce", "credit.baseline": "ema"}, "baseline/value"),
    "running_mean": (
        {"algorithm": "reinforce", "credit.baseline": "running_mean"},
        "baseline/value",
    ),
    "ziegler in the loss": (
        {
            "algorithm": "grpo",
            "kl.controller": "ziegler",
            "kl.target": 0.01,
            "kl.horizon": 30.0,
        },
        "kl/coefficient",
    ),
    "ppo in the reward": (
        {"algorithm": "rloo", "kl.controller": "ppo", "kl.target": 0.01},
        "kl/coefficient",
    ),
    "greedy responses": ({"algorithm": "remax", "rollout.resample_rounds": 1}, "reward/greedy"),
    "what is kept": (
        {"algorithm": "rejection_sampling", "update.epochs": 2, "update.minibatches": 2},
        "kept/reward",
    ),
    "an optimiser without a past": (
        {"algorithm": "kimi_opmd", "credit.length_reward": 0.5},
        "policy/grad_norm",
    ),
    "a reference that follows": (
        {
            "algorithm": "rloo",
            "kl.refresh_every": 2,
            "kl.refresh_rate": 0.5,
            "kl.controller": "ziegler",
            "kl.target": 0.01,
            "kl.horizon": 30.0,
        },
        "kl/measured",
    ),
    "penalty": (
        {
            "algorithm": "ppo",
            "objective.bound": "kl_penalty",
            "objective.penalty_target": 1e-3,
            "critic.warmup_steps": 1,
        },
        "penalty/coefficient",
    ),
}


@pytest.mark.parametrize("what", MOVING)
def test_resuming_leads_to_the_same_bits(what: str, tmp_path: Path) -> None:
    flags, metric = MOVING[what]
    whole = tmp_path / "whole"
    reward = even if "credit.length_reward" in flags else variety  # which reads right and wrong
    polopt.train(BASE, flags={**flags, "run.directory": str(whole)}, reward=reward)
    values = [line[metric] for line in metrics(whole) if metric in line]
    assert len(set(values)) > 1, "it moves"
    for step in (1, STEPS - 1):
        from_step(whole, tmp_path / f"from-{step}", step)
        polopt.resume(tmp_path / f"from-{step}", reward=reward)
        assert_same(tmp_path / f"from-{step}", whole)


def test_a_number_waits_with_the_policy_for_the_critic(tmp_path: Path) -> None:
    """In the head start of the critic nothing moves: a coefficient would fall for nothing."""
    flags, metric = MOVING["penalty"]
    run = tmp_path / "run"
    polopt.train(
        BASE,
        flags={**flags, "critic.warmup_steps": 2, "run.directory": str(run)},
        reward=variety,
    )
    first, second, third, _ = [line for line in metrics(run) if "critic/loss" in line]
    assert metric not in first.keys() | second.keys()
    assert third[metric] == 1.0
