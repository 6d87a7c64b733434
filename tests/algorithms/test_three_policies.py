"""The policy that sampled, the one at the start of an update and the one that learns are three."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polopt
from letters import variety
from polopt.rollout.engines import LocalEngine
from polopt.types import Group, Sample
from runs import metrics

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
    "kl": {"coefficient": 0.0},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 2},
    "run": {"steps": 1, "threads": 1, "seed": 1},
}


def first_step(directory: Path, **flags: Any) -> dict[str, Any]:
    polopt.train(BASE, flags={"run.directory": str(directory), **flags}, reward=variety)
    return metrics(directory)[-1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return first_step(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that says of every token that it was less likely, by half a nat, than it is.

    Of the groups of a step alone, or the run would not begin: it looks at this before.
    """
    polled, size = LocalEngine.poll, BASE["rollout"]["group_size"]

    def less(one: Sample) -> Sample:
        return replace(one, logp_rollout=one.logp_rollout - np.float32(0.5))

    def poll(self: LocalEngine) -> list[Group]:
        return [
            replace(group, samples=tuple(map(less, group.samples)))
            if len(group.samples) == size
            else group
            for group in polled(self)
        ]

    monkeypatch.setattr(LocalEngine, "poll", poll)


def test_what_sampled_is_told_apart_and_the_ratio_is_that_of_the_learner(
    off: None, tmp_path: Path
) -> None:
    """Log(π_old/π_rollout) is ½: KL(rollout‖old) by k3 is e^½ - 1 - ½, with the weights all alike.

    The learner starts as what it compares itself with: its ratio is 1.
    """
    found = first_step(tmp_path / "run")
    assert found["behaviour/kl"] == pytest.approx(math.exp(0.5) - 1.5, abs=1e-4)
    assert found["behaviour/ess"] == pytest.approx(1.0, abs=1e-4)
    assert found["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert found["policy/approx_kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("correction", "high", "weight"),
    [
        ("token_tis", 2.0, math.exp(0.5)),
        ("token_tis", 1.2, 1.2),
        ("token_mask", 2.0, math.exp(0.5)),
        ("sequence_geometric_mask", 2.0, math.exp(0.5)),
        ("token_mask", 1.2, 0.0),
    ],
)
def test_a_correction_weighs_by_the_policy_of_the_trainer_over_that_of_the_sampler(
    plain: dict[str, Any], off: None, correction: str, high: float, weight: float, tmp_path: Path
) -> None:
    """E^½ on every token, up to the bound: the gradient is as many times as long."""
    flags = {"objective.correction": correction, "objective.correction_high": high}
    found = first_step(tmp_path / "run", **flags)["policy/grad_norm"]
    assert plain["policy/grad_norm"] > 0
    assert found / plain["policy/grad_norm"] == pytest.approx(weight, rel=1e-3)


def test_a_sampler_that_is_the_trainer_is_0_away(plain: dict[str, Any]) -> None:
    assert 0 <= plain["behaviour/kl"] < 1e-8
    assert plain["behaviour/ess"] == pytest.approx(1.0, abs=1e-5)
