"""From demonstrations to a reward model to a policy that is liked more, by what was planted."""

from __future__ import annotations

import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest

import polopt
from runs import ROOT, metrics

pytestmark = pytest.mark.slow
RECIPE = ROOT / "recipes" / "rlhf.toml"


def mean(lines: list[dict[str, Any]], metric: str) -> float:
    return statistics.fmean(line[metric] for line in lines if metric in line)


def of_ppo(run: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(run) if line["stage"] == "ppo" and "reward/model" in line]


@pytest.mark.parametrize("seed", [1, 2])
def test_ppo_improves_what_was_planted_at_the_kl_that_was_asked_for(
    seed: int, tmp_path: Path
) -> None:
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run")}
    run = polopt.train(RECIPE, flags=flags)
    assert run.summary["planted_score_before"] < 0.6
    assert run.summary["planted_score_after"] > 0.85
    lines = of_ppo(run.directory)
    target = tomllib.loads(RECIPE.read_text())["stage"]["ppo"]["kl"]["target"]
    assert mean(lines[-30:], "kl/measured") == pytest.approx(target, rel=0.3)
    assert mean(lines[-30:], "reward/model") > mean(lines[:10], "reward/model") + 1


def test_a_reward_model_that_goes_on_learning_stays_right(tmp_path: Path) -> None:
    """Both begin with one that learned little. Nobody holds the policy back: it moves far."""
    recipe = tomllib.loads(RECIPE.read_text())
    stages = recipe["stage"]
    stages["reward"]["run"]["steps"] = 40
    stages["ppo"] |= {
        "rollout": {"prompts_per_step": 16, "group_size": 4},
        "kl": {"coefficient": 0.0},
        "evaluation": {"every": 0, "prompts": 32},
    }
    found: dict[int, float] = {}
    for every in (0, 2):
        given = json.loads(json.dumps(recipe))
        model = given["stage"]["ppo"]["rewards"][0]
        model |= {"labels": "planted", "refresh_every": every}
        if every:
            model["learning_rate"] = 1e-3
        run = polopt.train(given, flags={"run.directory": str(tmp_path / str(every))}).directory
        lines = of_ppo(run)
        found[every] = mean(lines, "agreement/model")
        assert mean(lines[-20:], "reward/planted") > 0.9
    assert found[2] > found[0] + 0.05
