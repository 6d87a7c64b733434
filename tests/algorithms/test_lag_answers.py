"""The answers to lag in whole runs: re-use, the controller, and how both go on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import variety
from polopt.choices.coordination import anchored_in_sampling, lag_at_most, lag_steps_at_most
from polopt.coordination.ledger import Ledger
from polopt.recipe import load
from polopt.recipe.fields import flat
from polopt.resolution import derived, inert, resolve
from runs import assert_same, from_step, lines, metrics, unexplained, weights

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 6},
    "kl": {"coefficient": 0.01},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 2},
    "run": {"steps": 6, "threads": 1, "seed": 1, "checkpoint_every": 4, "keep": 9},
    "coordination": {"mode": "buffered"},
}
REUSE: dict[str, Any] = {"coordination.reuse": 0.5, "coordination.reuse_age": 3}
HUGE: dict[str, Any] = {"update.learning_rate": 3e-2, "coordination.target_mismatch": 1e-3}


def train(directory: Path, **flags: Any) -> Path:
    run = polopt.train(BASE, flags={"run.directory": str(directory), **flags}, reward=variety)
    return run.directory


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("reused") / "run", **REUSE)


def test_old_groups_are_trained_on_with_a_ratio_to_the_policy_that_sampled(reused: Path) -> None:
    found = metrics(reused)[1:]
    assert [line["reuse/groups"] for line in found] == [0] + [2] * 5
    assert all(line["lag/max"] == 0 for line in found)  # of new groups: S = 0
    assert all(1 <= line["reuse/age"] <= 3 for line in found[1:])
    assert all(line["behaviour/kl"] > 1e-6 for line in found[1:])
    assert unexplained(found[-1]) == []
    asked = [key for line in lines(reused, "prompts") for key in line.get("trained", [])]
    assert len(asked) == len({*asked})


def test_a_run_that_uses_groups_again_goes_on_as_if_nothing_had_been(
    reused: Path, tmp_path: Path
) -> None:
    from_step(reused, tmp_path / "run", 4)
    polopt.resume(tmp_path / "run", reward=variety)
    assert_same(tmp_path / "run", reused)


def test_new_groups_are_generated_for_the_rest_of_the_batch_alone(reused: Path) -> None:
    state = json.loads((reused / "checkpoints" / "last" / "state.json").read_text())
    assert state["source"]["ended"]["trained"] == 6 * 2
    assert state["learners"]["reuse"] == {"groups": 2 * 4}  # as many as may still be used


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {**HUGE, **REUSE, "run.steps": 14}
    return train(tmp_path_factory.mktemp("steered") / "run", **flags)


def test_a_huge_learning_rate_is_lowered_and_the_record_says_so(steered: Path) -> None:
    found = metrics(steered)[1:]
    rates = [line["policy/learning_rate"] for line in found]
    assert rates[:4] == [3e-2] * 4 and rates[-1] == 3e-2 / 8
    assert found[-1]["kl/coefficient"] == 0.01 * 2  # the rates are used up
    assert unexplained(found[-1]) == []
    said = [line for line in lines(steered, "warnings") if "target_mismatch" in line["message"]]
    assert [line["step"] for line in said] == [4, 7, 10, 13]
    words = "steps: learning rate 1 to 0.5 times that of the recipe"
    assert said[0]["message"].endswith(words) and said[0]["stage"] == "train"
    assert found[-1]["controller/actions"] == 4


def test_the_controller_goes_on_where_it_was(steered: Path, tmp_path: Path) -> None:
    from_step(steered, tmp_path / "run", 8)
    polopt.resume(tmp_path / "run", reward=variety)
    assert_same(tmp_path / "run", steered)


def test_staleness_is_lowered_before_the_learning_rate(tmp_path: Path) -> None:
    flags = {**HUGE, "coordination.staleness": 2, "coordination.window": 2, "run.steps": 12}
    found = metrics(train(tmp_path / "run", **flags))[1:]
    forced = [(line["controller/window"], line["controller/staleness"]) for line in found]
    ways = list(dict.fromkeys(forced))
    assert ways == [(2, 2), (1, 2), (1, 1), (1, 0)][: len(ways)] and len(ways) >= 2
    bound = (4 * 3 + 2 - 2) // 4
    assert max(line["lag/max"] for line in found) <= bound


def settled(**coordination: Any) -> Any:
    flags = {name if "." in name else f"coordination.{name}": v for name, v in coordination.items()}
    return resolve(load(BASE, flags)).stages[0]


@pytest.mark.parametrize("staleness", [1, 2, 5])
@pytest.mark.parametrize("window", [1, 3, 9])
@pytest.mark.parametrize("reuse", [0.0, 0.5])
def test_the_bound_of_a_recipe_is_that_of_its_ledger(
    staleness: int, window: int, reuse: float
) -> None:
    age = {"reuse": reuse, "reuse_age": staleness + 1} if reuse else {}
    stage = settled(staleness=staleness, window=window, **age)
    bound = Ledger(2 if reuse else 4, staleness=staleness, window=window).lag_bound
    assert lag_at_most(flat(stage)) == max(bound, staleness + 1 if reuse else 0)


def test_lag_is_bounded_in_optimiser_steps_where_that_is_asked_for() -> None:
    """S = 2 with 2 epochs of 4 minibatches: 2 updates of 8 optimiser steps."""
    several = {"update.epochs": 2, "update.minibatches": 4, "staleness": 2}
    stage = settled(**several, max_lag_steps=16)
    assert lag_steps_at_most(flat(stage)) == 16
    assert derived(stage)["lag_in_optimiser_steps"] == 16
    assert "lag_at_most" not in derived(settled())
    assert derived(settled())["responses"] == 6 * 16
    assert derived(settled(reuse=0.25))["responses"] == 6 * 12  # that are generated
    cut = settled(**several, max_age=1, max_lag_steps=8)  # older ones are given up
    assert lag_steps_at_most(flat(cut)) == 8
    settled(window=50, max_lag_steps=0)  # with S = 0 a batch takes all that there is


@pytest.mark.parametrize("stale", [{"staleness": 1}, {"reuse": 0.5}])
def test_a_clip_acts_on_stale_responses_with_one_optimiser_step_too(stale: dict[str, Any]) -> None:
    assert anchored_in_sampling(flat(settled(**stale)))
    assert [line for line in inert(settled(**stale)) if "clip" in line] == []
    assert [line for line in inert(settled()) if "clip" in line]


def test_weights_differ_with_what_is_used_again(reused: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "run", **{**REUSE, "coordination.reuse_age": 1, "run.steps": 3})
    assert weights(other) != weights(reused)
