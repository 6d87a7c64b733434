"""What an alarm does to a run: told, stopped, or put back to the best checkpoint; and resumed."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import variety
from polopt.errors import ALARMED, Stopped
from runs import BRIEF, from_step, lines, metrics, weights

# Answers of the untrained model never end: at step 12 truncation has held for three readings.
RINGS = 12
CUT: dict[str, Any] = {key: value for key, value in BRIEF.items() if key != "stage"} | {
    "algorithm": "grpo",
    "rollout": {"max_new_tokens": 8, "prompts_per_step": 2, "group_size": 4},
    "update": {"learning_rate": 1e-3, "epochs": 2, "minibatches": 2},
    "evaluation": {"prompts": 8, "every": 5},
    "run": {"seed": 1, "threads": 1, "checkpoint_every": 100, "steps": 14},
}


BACK: dict[str, Any] = {
    "alarms.policy": "roll_back",
    "run.steps": 30,
    "run.checkpoint_every": 1,
    "run.keep": 99,
}


def trained(directory: Path, **flags: Any) -> None:
    polopt.train(CUT, flags={"run.directory": str(directory), **flags}, reward=variety)


def stopped(directory: Path, **flags: Any) -> Stopped:
    with pytest.raises(Stopped) as caught:
        trained(directory, **flags)
    return caught.value


@pytest.fixture(scope="module")
def warned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("warned") / "run"
    trained(directory)
    return directory


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint is that of step 5: at step 12 the run goes back to it, at 19 it stops."""
    directory = tmp_path_factory.mktemp("back") / "run"
    error = stopped(directory, **BACK)
    assert "stopped by the alarm truncation and saved at step 19" in str(error)
    return directory


def test_an_alarm_is_a_warning_and_an_event_once(warned: Path) -> None:
    (alarm,) = lines(warned, "alarms")
    assert (alarm["step"], alarm["alarm"], alarm["policy"]) == (RINGS, "truncation", "warn")
    assert alarm["value"] > alarm["threshold"] == 0.3
    (warning,) = [x for x in lines(warned, "warnings") if x["message"].startswith("alarm")]
    assert warning["message"] == alarm["message"]
    assert "try a larger rollout.max_new_tokens" in alarm["message"]
    assert json.loads((warned / "summary.json").read_text())["steps"] == 14


def test_stop_saves_names_the_alarm_and_can_be_resumed(tmp_path: Path, warned: Path) -> None:
    run = tmp_path / "run"
    error = stopped(run, **{"alarms.policy": "stop"})
    assert str(error) == (
        f"stopped by the alarm truncation and saved at step {RINGS}; "
        f"go on with: polopt resume {run}"
    )
    assert error.exit_code == ALARMED
    polopt.resume(run, reward=variety)
    assert len(lines(run, "alarms")) == 1  # it rings on, and says nothing new
    assert weights(run) == weights(warned)


def test_rolled_back_to_the_best_once(rolled_back: Path, warned: Path) -> None:
    rung, back, again = lines(rolled_back, "alarms")
    assert (rung["step"], rung["policy"]) == (RINGS, "roll_back")
    assert back == {"step": RINGS, "stage": "train", "alarm": "truncation", "back_to": 5}
    # lines 1 to 5 count, and those from 13 on: the tenth is that of step 17, the third that of 19
    assert (again["step"], again["alarm"]) == (19, "truncation")
    steps = [line["step"] for line in lines(rolled_back, "metrics")]
    assert steps == [*range(20)]  # the steps, and the prompts, go on
    asked, expected = lines(rolled_back, "prompts"), lines(warned, "prompts")
    assert [x.get("trained") for x in asked[: len(expected)]] == [
        x.get("trained") for x in expected
    ]


def test_the_weights_after_a_step_back_are_those_of_the_best(rolled_back: Path) -> None:
    """What step 13 measured before its update is of step 5, not of step 12."""
    measured = {line["step"]: line for line in lines(rolled_back, "metrics")}
    assert measured[13]["behaviour/kl"] < 1e-6  # who samples and who trains have the same weights
    states = {
        step: json.loads((rolled_back / f"checkpoints/step_{step}/state.json").read_text())
        for step in (5, 12, 13)
        if (rolled_back / f"checkpoints/step_{step}").exists()
    }
    counters = {step: state["learners"]["policy"] for step, state in states.items()}
    assert 12 not in counters  # the bad weights were not saved
    assert counters[13]["optimiser_steps"] == counters[5]["optimiser_steps"] * 6 // 5


def saved(run: Path, name: str) -> tuple[dict[str, str], int]:
    """Hashes of the weights of a checkpoint, and how many optimiser steps made them."""
    path = run / "checkpoints" / name
    hashes = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.glob("*.safetensors")
    }
    state = json.loads((path / "state.json").read_text())
    return hashes, state["learners"]["policy"]["optimiser_steps"]


def test_at_its_last_step_a_stage_ends_with_the_best_weights(tmp_path: Path) -> None:
    """Nothing is left to go on with: it steps back, is evaluated as it is kept, and has ended."""
    run = tmp_path / "run"
    trained(run, **BACK | {"run.steps": RINGS})
    assert [line.get("back_to") for line in lines(run, "alarms")] == [None, 5]
    assert saved(run, "last") == saved(run, "best") == saved(run, "step_5")
    found = json.loads((run / "summary.json").read_text())
    assert found["stages"][0]["ended"] == "steps" and found["steps"] == RINGS
    measured = {line["step"]: line for line in lines(run, "metrics")}
    assert found["reward_after"] == measured[5]["eval/reward"]
    assert found["reward_after"] != measured[RINGS]["eval/reward"]  # of the weights that rang
    after = [line for line in lines(run, "samples") if line["kind"] == "after"]
    assert len({line["ticket"] for line in after}) == len(after)  # of one model alone
    polopt.resume(run, flags={"run.steps": RINGS + 1}, reward=variety)
    assert lines(run, "metrics")[-1]["behaviour/kl"] < 1e-6


@pytest.mark.parametrize("step", [11, 13])
def test_resume_is_exact_around_a_step_back(rolled_back: Path, tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    from_step(rolled_back, run, step, finished=False)
    with pytest.raises(Stopped):
        polopt.resume(run, reward=variety)
    assert lines(run, "alarms") == lines(rolled_back, "alarms")
    assert weights(run) == weights(rolled_back)
    assert metrics(run) == metrics(rolled_back)
    for name in ("samples", "warnings", "prompts"):
        assert lines(run, name) == lines(rolled_back, name)


ASIDE: dict[str, dict[str, Any]] = {
    "split": {"coordination.mode": "split"},
    "buffered": {"coordination.mode": "buffered", "coordination.engines": 2},
}


@pytest.mark.parametrize("mode", ASIDE)
def test_engines_beside_the_training_step_back_with_it(
    rolled_back: Path, tmp_path: Path, mode: str
) -> None:
    """Without staleness to the bit: what engines had generated by the bad weights is gone."""
    before = threading.active_count()
    error = stopped(tmp_path / "run", **BACK, **ASIDE[mode])
    assert "stopped by the alarm truncation and saved at step 19" in str(error)
    assert threading.active_count() == before
    assert lines(tmp_path / "run", "alarms") == lines(rolled_back, "alarms")
    assert weights(tmp_path / "run") == weights(rolled_back)


def test_after_a_step_back_nothing_stale_is_of_the_weights_that_rang(tmp_path: Path) -> None:
    """Groups may be two updates old; those that were waiting are generated anew."""
    stale = {"coordination.staleness": 2, "coordination.window": 2}
    with pytest.raises(Stopped) as caught:
        trained(tmp_path / "run", **BACK, **ASIDE["buffered"], **stale)
    assert caught.value.exit_code == ALARMED
    rung, back, *_ = lines(tmp_path / "run", "alarms")
    assert (rung["alarm"], back["back_to"]) == ("truncation", 5)
    step = back["step"]
    measured = {line["step"]: line for line in lines(tmp_path / "run", "metrics")}
    assert measured[step]["lag/max"] > 0
    assert measured[step + 1]["lag/max"] == 0 and measured[step + 1]["behaviour/kl"] < 1e-6
