"""A run in episodes that a time limit cuts, or that are over: what its critic is told to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polopt
from runs import lines

gymnasium = pytest.importorskip("gymnasium")
LENGTH, GAMMA = 3, 0.5


class Steady(gymnasium.Env[Any, Any]):
    """Sees 1 and earns 1; over after three steps where it is told to be."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, ends: bool = False, render_mode: str | None = None) -> None:
        self.ends = ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        return np.ones(1, dtype=np.float32), 1.0, self.ends and self.taken == LENGTH, False, {}


@pytest.fixture(scope="module")
def source() -> str:
    name = "polopt-tests/Steady-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=Steady, max_episode_steps=LENGTH)
    return f"control:{name}"


@pytest.mark.parametrize("ends", [False, True])
def test_the_value_after_a_time_limit_counts_and_that_after_an_end_does_not(
    ends: bool, source: str, tmp_path: Path
) -> None:
    """λ = 1, γ = ½, V = v: targets 1 + ½v, 1½ + ¼v, 1¾ + ⅛v of three steps; over, without the v.

    Their mean is 17/12 + 7/24 v. Nothing of the next episode is in them.
    """
    recipe = {
        "algorithm": "a2c",
        "model": {"path": "builtin:mlp"},
        "data": {"source": source, "parameters": {"ends": ends}},
        "credit": {"gamma": GAMMA, "lambda": 1.0},
        "episodes": {"environments": 2, "steps": 4 * (LENGTH + 1)},
        "critic": {"learning_rate": 0.05},
        "evaluation": {"episodes": 1},
        "run": {"steps": 3, "threads": 1, "directory": str(tmp_path / "run")},
    }
    polopt.train(recipe)
    found = [line for line in lines(tmp_path / "run", "metrics") if "value/mean" in line]
    assert len(found) == 3
    assert abs(found[-1]["value/mean"]) > 0.1
    for line in found:
        after = 0.0 if ends else 7 / 24 * line["value/mean"]
        assert line["steps"] == 2 * 4 * LENGTH  # one step of each episode only begins the next
        assert line["value/target_mean"] == pytest.approx(17 / 12 + after, abs=1e-5)
        assert line["episode/reached_limit"] == (not ends)
