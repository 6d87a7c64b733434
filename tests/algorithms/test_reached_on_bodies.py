"""What rows on bodies must reach: ``make test-control``."""

from __future__ import annotations

from pathlib import Path

import pytest

import polopt

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.control


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_ppo_balances_the_pole_within_fifty_thousand_steps(seed: int, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "cartpole_ppo.toml"
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run"), "run.steps": 48}
    run = polopt.train(recipe, flags={**flags, "evaluation.every": 0})
    assert run.summary["return_mean_after"] >= 475
