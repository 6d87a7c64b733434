"""Out of memory in each phase of a run: one line that names it, and the run goes on from before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.errors import DeviceMemoryError
from polopt.roles import Actor
from polopt.rollout import evaluation
from polopt.rollout.engines import LocalEngine
from polopt.update import FirstOrder
from runs import BRIEF

RL = {**BRIEF, **BRIEF["stage"]["rl"], "run": {**BRIEF["run"], "steps": 4, "checkpoint_every": 1}}
RL.pop("stage")


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
}


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("phase", list(WHERE))
def test_one_line_and_a_run_that_goes_on(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**RL, "evaluation": {"prompts": 8, "every": 2}}
    run, whole = tmp_path / "run", tmp_path / "whole"
    polopt.train({**recipe, "run": {**recipe["run"], "directory": str(whole)}}, reward=variety)
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
                {**recipe, "run": {**recipe["run"], "directory": str(run)}},
                reward=variety,
                observers=[heard],
            )
    line = str(caught.value)
    assert line.startswith(f"{phase}: the device is out of memory (CUDA out of memory)")
    assert f"polopt resume {run}" in line and "\n" not in line
    knob = {"update": "update.micro_batch_tokens", "checkpoint": "polopt check"}
    assert knob.get(phase, "rollout.rows") in line
    polopt.resume(run, reward=variety)
    assert weights(run) == weights(whole)
