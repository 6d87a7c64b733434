"""Alarms of several ranks and of a cluster: one of them looks, all of them do what it asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_torchrun import assert_nobody_is_left, everyone, torchrun

from polopt.errors import ALARMED
from runs import ROOT, command, lines, metrics, steps_taken, wait_for, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
REWARD = {"file": str(ROOT / "tests/letters.py"), "function": "variety"}
# Answers of the untrained model never end: truncation rings as soon as it can, at step 12.
CUT: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "reward": REWARD,
    "rollout": {"max_new_tokens": 8, "prompts_per_step": 2, "group_size": 4},
    "kl": {"coefficient": 0.0},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 8, "every": 5},
    "run": {"seed": 1, "threads": 1, "checkpoint_every": 100, "steps": 30},
}
RINGS = 12


def recipe(directory: Path, **tables: Any) -> Path:
    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
        return json.dumps(value)

    file = directory / "recipe.toml"
    file.write_text("".join(f"{k} = {toml(v)}\n" for k, v in (CUT | tables).items()))
    return file


def stopped_on_ranks(file: Path, run: Path, *flags: object) -> str:
    """What two ranks of torchrun say, of which each ends with the exit code of an alarm."""
    process = torchrun(2, "train", file, "--run.directory", run, *flags)
    wait_for(lambda: steps_taken(run) >= 2 or process.poll() is not None, 300)
    all_ = everyone(process)
    _, errors = process.communicate(timeout=300)  # no hang
    codes = re.findall(r"exitcode +: (-?\d+)", errors)  # as torchrun tells them, by rank
    assert codes == [str(ALARMED)] * 2, errors
    assert_nobody_is_left(all_)
    return errors


@pytest.mark.parametrize("shard", ["true", "false"])
def test_stop_ends_every_rank_at_the_same_step(tmp_path: Path, shard: str) -> None:
    run, file = tmp_path / "run", recipe(tmp_path)
    errors = stopped_on_ranks(file, run, "--alarms.policy", "stop", "--update.shard", shard)
    said = f"stopped by the alarm truncation and saved at step {RINGS}; go on with: polopt resume"
    assert errors.count(said) == 1
    (alarm,) = lines(run, "alarms")
    assert (alarm["step"], alarm["alarm"]) == (RINGS, "truncation")
    assert (run / "checkpoints" / "last").resolve().name == f"step_{RINGS}"


def test_roll_back_puts_every_rank_back_once(tmp_path: Path) -> None:
    run, file = tmp_path / "run", recipe(tmp_path)
    flags = ("--alarms.policy", "roll_back", "--run.checkpoint_every", 1, "--run.keep", 99)
    errors = stopped_on_ranks(file, run, *flags)
    rung, back, again = lines(run, "alarms")
    best = int((run / "checkpoints" / "best").resolve().name.removeprefix("step_"))
    assert (rung["step"], back["step"], back["back_to"]) == (RINGS, RINGS, best)
    assert f"stopped by the alarm truncation and saved at step {again['step']}" in errors
    steps = [line["step"] for line in metrics(run)]
    assert steps == [*range(again["step"] + 1)]
    measured = {line["step"]: line for line in metrics(run)}
    assert measured[RINGS + 1]["behaviour/kl"] < 1e-6  # engine and trainer, on both ranks
    saved = {path.name for path in (run / "checkpoints").glob("step_*")}
    assert f"step_{RINGS}" not in saved and f"step_{RINGS + 1}" in saved

    code, _, errors = command("resume", run, "--run.steps", 31)  # by one rank, to its end
    assert code in (0, ALARMED), errors


CLUSTER = ("--coordination.mode", "cluster", "--coordination.engines", 2)


@pytest.mark.parametrize("trainers", [1, 2])
def test_a_cluster_steps_back_and_stops(tmp_path: Path, trainers: int) -> None:
    """With one trainer and no staleness to the bits of a run without a cluster."""
    file = recipe(tmp_path)
    flags = ("--alarms.policy", "roll_back", "--run.checkpoint_every", 1)
    runs = dict[str, Path]()
    of_ray = (*CLUSTER, "--coordination.trainers", trainers)
    for name, own in (("alternate", ()), ("cluster", of_ray)):
        run = runs[name] = tmp_path / name
        code, _, errors = command("train", file, "--run.directory", run, *flags, *own)
        assert code == ALARMED, errors
        assert "stopped by the alarm truncation and saved at step" in errors
    rung, back, *_ = lines(runs["cluster"], "alarms")
    assert (rung["step"], back["step"]) == (RINGS, RINGS)
    if trainers == 1:
        assert lines(runs["cluster"], "alarms") == lines(runs["alternate"], "alarms")
        assert weights(runs["cluster"]) == weights(runs["alternate"])
