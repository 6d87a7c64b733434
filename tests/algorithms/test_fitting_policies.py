"""A policy acts where it was trained, or where observations and actions are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.cli import main
from polopt.errors import RecipeError

CONTROL: dict[str, Any] = {
    "model": {"path": "builtin:mlp"},
    "data": {"source": "control:cartpole"},
    "episodes": {"environments": 2, "steps": 8},
    "evaluation": {"episodes": 2},
}


def trained(directory: Path, **tables: Any) -> Path:
    run = {"steps": 2, "threads": 1, "checkpoint_every": 1, "directory": str(directory)}
    polopt.train({**CONTROL, "algorithm": "ppo", "run": run, **tables})
    return directory


def two(directory: Path, first: str, second: str, algorithm: str = "a2c") -> None:
    """A stage ``first`` and one that starts from it because it comes later."""
    stages: dict[str, Any] = {
        "one": {"algorithm": "ppo", "data": {"source": first}},
        "two": {"algorithm": algorithm, "data": {"source": second}},
    }
    run = {"steps": 1, "threads": 1, "directory": str(directory)}
    polopt.train({**CONTROL, "data": {}, "stage": stages, "run": run})


def test_evaluation_elsewhere_is_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path / "run")
    assert main(["eval", str(run), "--data.source", "control:pendulum"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: data.source: control:pendulum has 3 observations and actions of 1 number; the "
        f"policy of {run}/checkpoints/last was trained on 4 observations and 2 actions to choose "
        "from"
    )


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("control:cartpole", "control:pendulum", "has 3 observations and actions of 1 number; "),
        ("control:cartpole", "control:Acrobot-v1", "has 6 observations and 3 actions to choose"),
        ("control:pendulum", "control:MountainCarContinuous-v0", "has 2 observations and act"),
    ],
)
def test_a_stage_that_starts_elsewhere_is_refused(
    first: str, second: str, told: str, tmp_path: Path
) -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(RecipeError) as error:
        two(tmp_path / "run", first, second)
    assert str(error.value).startswith(f"data.source: {second} {told}")
    assert "; the policy of stage one was trained on " in str(error.value)
    assert not (tmp_path / "run").exists()  # before the first stage was trained


@pytest.mark.parametrize(
    ("field", "value"),
    [("network.hidden", "[8]"), ("network.activation", "relu"), ("network.log_std", "0.5"),
     ("network.distribution", "squashed"), ("episodes.normalise_observations", "true")],
)  # fmt: skip
def test_a_network_is_that_of_the_stage_before(field: str, value: str, tmp_path: Path) -> None:
    stages = {"one": {"algorithm": "ppo"}, "two": {"algorithm": "a2c", "from": "one"}}
    recipe = {**CONTROL, "data": {"source": "control:pendulum"}, "stage": stages}
    with pytest.raises(RecipeError) as error:
        polopt.check(recipe, flags=[f"--two.{field}", value])
    assert str(error.value).startswith(f"stage.two.{field}: ")
    assert "has no effect: the stage starts from the weights of one; remove" in str(error.value)


def test_a_network_of_both_stages_is_made_in_the_first(tmp_path: Path) -> None:
    """Squashed, too: the second stage goes on with what the first one left."""
    network = {"hidden": [8], "activation": "relu", "distribution": "squashed"}
    stages = {"one": {"algorithm": "ppo"}, "two": {"algorithm": "a2c"}}
    run = {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")}
    shared = {"data": {"source": "control:pendulum"}, "network": network, "run": run}
    polopt.train({**CONTROL, **shared, "stage": stages})
    made_of = polopt.load(tmp_path / "run").actor.network.made_of
    assert (made_of.hidden, made_of.activation) == ((8,), "relu")
    assert made_of.kind == "tanh_gaussian"


def test_other_bounds_are_other_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polopt.envs.control import pendulum

    run = trained(tmp_path / "run", data={"source": "control:pendulum"})
    monkeypatch.setattr(pendulum, "STRONGEST", 3.5)
    with pytest.raises(RecipeError) as error:
        polopt.evaluate(run)
    assert str(error.value) == (
        "data.source: control:pendulum has actions whose number 0 is between -3.5 and 3.5; the "
        f"policy of {run}/checkpoints/last was trained on one between -2 and 2"
    )


def test_the_same_shape_by_another_name_is_none_of_that(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    run = trained(tmp_path / "run")
    flags = {"data.source": "control:CartPole-v1"}
    assert polopt.evaluate(run, flags=flags)[0].metrics["return_mean"] > 0
    two(tmp_path / "two", "control:cartpole", "control:CartPole-v1")


def test_a_run_whose_environment_has_changed_does_not_go_on(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    written = json.dumps(config).replace("control:cartpole", "control:pendulum")
    (run / "config.json").write_text(written)
    with pytest.raises(RecipeError) as error:
        polopt.resume(run, flags={"run.steps": 3})
    assert str(error.value) == (
        "data.source: control:pendulum has 3 observations and actions of 1 number; the policy of "
        f"{run}/checkpoints/step_2 was trained on 4 observations and 2 actions to choose from"
    )


def test_a_kind_of_another_row_names_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        two(tmp_path / "run", "control:pendulum", "control:pendulum", "sac")
    assert str(error.value) == (
        'stage.two.from: "one" is not allowed; it ends in a policy of ppo, whose distribution sac '
        "cannot train"
    )
    assert not (tmp_path / "run").exists()  # before the first stage was trained
    run = trained(tmp_path / "other", data={"source": "control:pendulum"})
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["network"]["distribution"] = "squashed"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"distribution: .*step_2 has a gaussian policy, and the"):
        polopt.resume(run, flags={"run.steps": 3})


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run of the robot, and how its own reward judges it."""
    pytest.importorskip("mujoco")
    source = {"source": "control:biped", "parameters": {"preset": "walk"}}
    run = trained(tmp_path_factory.mktemp("walk") / "run", data=source)
    return run, polopt.evaluate(run)[0].metrics


@pytest.mark.parametrize("preset", ["toolbox", "github2d"])
def test_a_walk_is_judged_by_another_reward(
    preset: str, walk: tuple[Path, dict[str, float]]
) -> None:
    run, own = walk
    other = polopt.evaluate(run, flags={"data.parameters.preset": preset})[0].metrics
    assert other["return_mean"] != own["return_mean"]
    assert {k: v for k, v in other.items() if not k.startswith("return")} == {
        k: v for k, v in own.items() if not k.startswith("return")
    }
