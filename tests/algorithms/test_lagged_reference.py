"""A reference that follows the policy, as a recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import variety
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, load
from polopt.resolution import describe, inert, resolve
from runs import metrics

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
}


def stage(algorithm: str = "grpo", **flags: Any) -> StageRecipe:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve(load({**BASE, "algorithm": algorithm}, named)).stages[0]


def distances(directory: Path, **flags: Any) -> list[float]:
    """KL to the reference of the policy before each of four updates."""
    settings = {
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
        "update": {"learning_rate": 1e-2},
        "evaluation": {"prompts": 4},
        "run": {"steps": 4, "threads": 1, "directory": str(directory)},
    }
    named = {name.replace("__", "."): value for name, value in flags.items()}
    polopt.train({**BASE, **settings}, flags=named, reward=variety)
    return [abs(line["kl/measured"]) for line in metrics(directory) if "kl/measured" in line]


def test_it_is_the_policy_again_after_every_second_batch(tmp_path: Path) -> None:
    first, second, third, fourth = distances(tmp_path / "run", kl__refresh_every=2)
    assert (first, third) == (0.0, 0.0)
    assert second > 1e-3 and fourth > 1e-3


def test_it_stays_where_it_is_unless_it_is_told_to_follow(tmp_path: Path) -> None:
    first, *others = distances(tmp_path / "run")
    assert first == 0.0
    assert min(others) > 1e-3


def test_a_share_of_the_way_is_nearer_than_none(tmp_path: Path) -> None:
    still = distances(tmp_path / "still")
    half = distances(tmp_path / "half", kl__refresh_every=1, kl__refresh_rate=0.5)
    assert 0 < half[1] < still[1]


def test_the_row_says_that_it_follows() -> None:
    entries = {e["choice"]: e for e in describe(stage(kl__refresh_every=10))}
    assert entries["lagged_reference"]["settings"] == {
        "kl.refresh_every": 10,
        "kl.refresh_rate": 1.0,
    }
    assert "reference" not in entries
    assert "lagged_reference" not in {e["choice"] for e in describe(stage())}


def test_an_adapter_has_no_reference_to_move() -> None:
    with pytest.raises(RecipeError, match=r"^kl.refresh_every: 5 is not allowed with model.lora"):
        stage(kl__refresh_every=5, model__lora=4)


def test_check_says_where_the_reference_is_the_policy_that_sampled() -> None:
    def said(**flags: Any) -> bool:
        return any("the policy that sampled: the KL" in line for line in inert(stage(**flags)))

    assert said(kl__refresh_every=1)
    assert said(algorithm="rloo", kl__refresh_every=1)
    assert not said(kl__refresh_every=1, update__epochs=2)
    assert not said(kl__refresh_every=1, kl__refresh_rate=0.1)
    assert not said(kl__refresh_every=2)
    assert any("kl.refresh_every = 101" in line for line in inert(stage(kl__refresh_every=101)))
