"""What rows on bodies must reach: ``make test-control``."""

from __future__ import annotations

from pathlib import Path

import pytest

import polopt
from runs import lines

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.control


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_ppo_balances_the_pole_within_fifty_thousand_steps(seed: int, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "cartpole_ppo.toml"
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run"), "run.steps": 48}
    run = polopt.train(recipe, flags={**flags, "evaluation.every": 0})
    assert run.summary["return_mean_after"] >= 475


@pytest.mark.parametrize("name", ["sac", "ddpg"])
def test_the_pendulum_stands_within_ten_thousand_steps(name: str, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / f"pendulum_{name}.toml"
    run = polopt.train(recipe, flags={"run.directory": str(tmp_path / "run")})
    assert run.summary["return_mean_after"] > -200
    told = [line for line in lines(tmp_path / "run", "metrics") if "steps" in line]
    assert sum(line["steps"] for line in told) <= 10_000
    if name == "sac":
        alphas = [line["policy/alpha"] for line in told]
        assert 0 < alphas[-1] < alphas[0]
