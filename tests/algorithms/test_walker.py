"""A robot learns to walk: a glance at it here, what it must reach under ``make test-control``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import polopt
from runs import lines

pytest.importorskip("mujoco")
RECIPES = Path(__file__).parents[2] / "recipes"


def trained(directory: Path, recipe: str, **flags: Any) -> polopt.Run:
    given = {"run.directory": str(directory), "run.threads": 1, **flags}
    return polopt.train(RECIPES / f"{recipe}.toml", flags=given)


@pytest.mark.parametrize("recipe", ["walker", "walker_gait"])
def test_the_recipes_run_and_say_how_far_it_came(recipe: str, tmp_path: Path) -> None:
    few = {"run.steps": 2, "episodes.environments": 4, "evaluation.episodes": 2}
    summary = trained(tmp_path / "run", recipe, **few).summary
    assert abs(summary["distance_m"]) < 1 and summary["return_mean"] < 100
    assert {"in_air", "step_m", "reached_limit"} <= summary.keys()


@pytest.mark.control
@pytest.mark.timeout(3000)
def test_a_minute_takes_it_further_than_a_fall(tmp_path: Path) -> None:
    trained(tmp_path / "run", "walker", **{"run.steps": 130})
    last = [line for line in lines(tmp_path / "run", "metrics") if "episode/distance_m" in line]
    assert sum(line["episode/distance_m"] for line in last[-5:]) / 5 >= 1.5


@pytest.mark.control
@pytest.mark.timeout(3000)
def test_it_walks_as_far_as_it_should_and_not_by_a_trick_of_the_simulator(tmp_path: Path) -> None:
    """The authors' own five runs came to 176.7 ± 37.6, in another simulator."""
    run = trained(tmp_path / "run", "walker")
    assert run.summary["return_mean"] >= 177
    assert run.summary["distance_m"] >= 5
    assert run.summary["reached_limit"] >= 0.8
    (finer,) = polopt.evaluate(run.directory, flags={"data.parameters.physics": 0.00125})
    assert finer.metrics["return_mean"] >= 0.75 * run.summary["return_mean"]


@pytest.mark.control
@pytest.mark.timeout(3000)
def test_a_walk_has_one_foot_on_the_floor_and_then_the_other(tmp_path: Path) -> None:
    summary = trained(tmp_path / "run", "walker_gait").summary
    assert summary["distance_m"] >= 2 and summary["reached_limit"] >= 0.8
    assert summary["in_air"] <= 0.05 and summary["on_one_foot"] >= 0.7
    assert summary["step_m"] >= 0.03


@pytest.mark.control
@pytest.mark.timeout(3000)
def test_sac_walks_within_half_a_million_steps(tmp_path: Path) -> None:
    """Until it has earned as much as the authors' own runs: fewer steps, and no fewer seconds."""
    enough = {"until.metric": "return_mean", "until.at_least": 177, "evaluation.episodes": 32}
    run = trained(tmp_path / "run", "walker_sac", **enough)
    assert run.summary["return_mean"] >= 177
    told = lines(tmp_path / "run", "metrics")
    assert sum(line.get("steps", 0) for line in told) <= 500_000
