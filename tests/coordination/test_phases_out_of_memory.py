"""Out of memory in each phase of a run: one line that names it, and the run goes on from before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.assembly import StageInputs, context
from polopt.cli import main
from polopt.coordination.memory import planned
from polopt.coordination.sources import InlineSource
from polopt.errors import DeviceMemoryError
from polopt.memory.plan import gib
from polopt.roles import Actor
from polopt.rollout import evaluation
from polopt.rollout.engines import LocalEngine
from polopt.update import FirstOrder
from runs import BRIEF

RL = {**BRIEF, **BRIEF["stage"]["rl"], "run": {**BRIEF["run"], "steps": 4, "checkpoint_every": 1}}
RL.pop("stage")
RL["evaluation"] = {"prompts": 8, "every": 2}


def failing(owner: Any, name: str, patch: pytest.MonkeyPatch, when: Callable[[], bool]) -> None:
    """A method that runs out of memory from some time on."""
    real = getattr(owner, name)

    def method(*arguments: Any, **settings: Any) -> Any:
        if when():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
        return real(*arguments, **settings)

    patch.setattr(owner, name, method)


WHERE: dict[str, tuple[Any, str]] = {
    "rollout": (LocalEngine, "poll"),
    "update": (Actor, "score"),
    "evaluation": (evaluation, "answered"),
    "checkpoint": (FirstOrder, "save"),
    "publish": (InlineSource, "publish"),
    "step": (context, "rollout_metrics"),  # whatever no phase of it is
}
KNOB = {
    "rollout": "a smaller rollout.rows takes less",
    "update": "a smaller update.micro_batch_tokens takes less",
    "evaluation": "a smaller rollout.rows takes less",
    "checkpoint": "a run with model.lora takes less",
    "publish": "a run with model.lora takes less",
    "step": "a run with model.lora takes less",
}
PLANNED = {  # phases of its plan
    "rollout": ["rollout"],
    "update": ["log-probs", "update of the policy"],
    "evaluation": ["evaluation"],
    "checkpoint": ["save"],
    "publish": ["save"],
}


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, never disturbed."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    polopt.train({**RL, "run": {**RL["run"], "directory": str(directory)}}, reward=variety)
    return directory


@pytest.mark.parametrize("phase", list(WHERE))
def test_one_line_and_a_run_that_goes_on(
    phase: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    steps = list[int]()

    def heard(event: Any) -> None:
        if event.kind == "metrics":
            steps.append(event.values["step"])

    def later() -> bool:
        return bool(steps) and steps[-1] == 2 if phase != "evaluation" else steps[-1:] == [1]

    with monkeypatch.context() as patch:
        failing(*WHERE[phase], patch, later)
        with pytest.raises(DeviceMemoryError) as caught:
            polopt.train(
                {**RL, "run": {**RL["run"], "directory": str(run)}},
                reward=variety,
                observers=[heard],
            )
    line = str(caught.value)
    assert line.startswith(f"{phase}: the device is out of memory (CUDA out of memory)")
    assert f"polopt resume {run}" in line and "\n" not in line
    assert KNOB[phase] in line and "polopt check" in line
    (plan,) = (one["memory"] for one in json.loads((run / "config.json").read_text())["stages"])
    held = [sum(plan["phases"][name].values()) for name in PLANNED.get(phase, [])]
    said = f"planned {gib(max(held))} of {gib(plan['device']['usable'])}; " if held else "); a run"
    assert said in line
    polopt.resume(run, reward=variety)
    assert weights(run) == weights(whole)


def short(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")


@pytest.mark.parametrize(
    ("model", "less"),
    [({}, "model.lora"), ({"lora": 2}, "a smaller model.path")],
    ids=["full", "adapter"],
)
def test_a_stage_that_cannot_be_built_leaves_nothing_to_resume(
    model: dict[str, Any],
    less: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.toml"
    rows = [f"model.{name} = {value}" for name, value in model.items()]
    head = ['algorithm = "sft"', 'model.path = "builtin:tiny"', 'data.source = "task:chain_sum"']
    recipe.write_text("\n".join([*head, *rows, "run.threads = 1"]))
    monkeypatch.setattr(StageInputs, "language_model", short)
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--run.directory", str(run)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: building: the device is out of memory (CUDA out of memory)")
    assert "; planned " in line and f"; a run with {less} takes less" in line
    assert "polopt resume" not in line and not run.exists()


def test_a_later_stage_that_cannot_be_built_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, last = tmp_path / "run", BRIEF["stage"]["rl"] | {"run": {"steps": 1}}
    split = {"coordination": {"mode": "split", "engines": 2}}
    recipe = BRIEF | {"stage": {"sft": BRIEF["stage"]["sft"], "rl": last | split}}
    recipe = recipe | {"run": {**BRIEF["run"], "directory": str(run)}}
    steps = list[int]()

    def heard(event: Any) -> None:
        if event.kind == "metrics":
            steps.append(event.values["step"])

    with monkeypatch.context() as patch:
        failing(LocalEngine, "__init__", patch, lambda: steps[-1:] == [3])
        with pytest.raises(DeviceMemoryError) as caught:
            polopt.train(recipe, observers=[heard])
    line = str(caught.value)
    assert line.startswith("building: ") and "fewer coordination.engines" in line
    assert f"polopt resume {run}" in line
    polopt.resume(run)


def test_what_a_plan_says_of_a_phase() -> None:
    """Of building the weights alone: moments come with the first step."""
    gigabyte = 2**30
    save = {"weights": gigabyte, "reference": gigabyte, "optimiser": 4 * gigabyte}
    phases = {
        "log-probs": {**save, "logits": 9 * gigabyte},
        "update of the policy": {**save, "gradients": gigabyte},
        "save": save,
    }
    plan = {"device": {"usable": 14 * gigabyte}, "phases": phases}
    assert planned(plan, "update") == "planned 15.0 GiB of 14.0 GiB"
    assert planned(plan, "checkpoint") == "planned 6.0 GiB of 14.0 GiB"
    assert planned(plan, "building") == "planned 2.0 GiB of 14.0 GiB"
    assert planned(plan, "rollout") == planned(None, "update") == planned("none", "update") == ""
