"""Runs on the pretend device: killed, resumed, evaluated, with the numbers of the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import DEVICE, syncs
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

import polopt
from letters import variety
from polopt.api import execute
from runs import BRIEF, Crash, lines, metrics, steps_taken

TASTE = {"data": {"source": "task:taste"}}
SUMS = {"data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}}}


def one_stage(algorithm: str, **tables: Any) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "model": {"path": "builtin:tiny"},
        "evaluation": {"prompts": 4, "every": 2},
        "run": {"steps": 3, "seed": 3, "threads": 1, "checkpoint_every": 1},
        **tables,
    }


def sampled(algorithm: str, **tables: Any) -> dict[str, Any]:
    rollout = {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8}
    return one_stage(algorithm, **SUMS, rollout=rollout, **tables)


GIVEN = {"update": {"learning_rate": 1e-3, "batch_size": 8}}
STEPPED = {"update": {"learning_rate": 1e-3}}
RECIPES: dict[str, dict[str, Any]] = {
    # What the smoke recipe does, in fewer steps: pretraining, then GRPO with a reference.
    "grpo": BRIEF,
    "ppo": sampled("ppo", **STEPPED),
    "lora": sampled("grpo", **STEPPED)
    | {"model": {"path": "builtin:tiny", "lora": 2}, "kl": {"coefficient": 0.1}},
    "dpo": one_stage("dpo", **TASTE, **GIVEN),
    "reward model": one_stage("reward_model", **TASTE, **GIVEN),
}


def train(directory: Path, name: str, device: torch.device, observe: Any = None) -> None:
    flags, observers = {"run.directory": str(directory)}, [observe] if observe else []
    with on(device):
        polopt.train(RECIPES[name], flags=flags, reward=reward_of(name), observers=observers)


def resume(directory: Path, name: str, device: torch.device) -> None:
    with on(device):
        polopt.resume(directory, reward=reward_of(name))


def reward_of(name: str) -> Any:
    return None if RECIPES[name]["data"] is TASTE["data"] else variety


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Inside, a run has this device in the place of what ``run.device`` names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "device_of", lambda *_, **__: device)
        # Flash attention of the CPU rounds otherwise, and the pretend device has no such kernel.
        with sdpa_kernel(SDPBackend.MATH):
            yield


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint: policy, critic, adapter, optimisers."""
    last = (run / "checkpoints" / "last").resolve()
    return {
        f"{file.relative_to(last)} {name}": tensor
        for file in last.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def assert_close(run: Path, expected: Path) -> None:
    """Weights within 1e-5; figures too, or 1e-5 of their size; the same samples, word by word."""
    found, wanted = weights(run), weights(expected)
    assert found.keys() == wanted.keys() and len(found) > 20
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    for file in ("metrics", "samples") if (expected / "samples.jsonl").exists() else ("metrics",):
        for line, its in zip(records(run, file), records(expected, file), strict=True):
            assert line == {key: close(value) for key, value in its.items()}


def records(run: Path, file: str) -> list[dict[str, Any]]:
    return metrics(run) if file == "metrics" else lines(run, file)


def close(value: Any) -> Any:
    """Up to rounding; what there is of each token is rounded to five digits already."""
    if isinstance(value, list) and value and isinstance(value[0], float):
        return [pytest.approx(one, rel=1e-4, abs=1e-4) for one in value]
    return pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value


def crashed(name: str, run: Path) -> None:
    """Train on the device, cut off inside the last stage."""
    steps = 6 if name == "grpo" else 2

    def observe(_: object) -> None:
        if steps_taken(run) == steps:
            raise Crash

    with pytest.raises(Crash):
        train(run, name, DEVICE, observe)


def killed(name: str, run: Path) -> None:
    """The same in a process of its own, which has no time to tidy up."""
    path = os.pathsep.join(sys.path)
    process = subprocess.run(
        [sys.executable, __file__, name, run],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_cut_off_and_resumed_has_the_numbers_of_the_cpu(name: str, tmp_path: Path) -> None:
    train(tmp_path / "cpu", name, torch.device("cpu"))
    run = tmp_path / "device"
    with syncs() as found:
        (killed if name == "lora" else crashed)(name, run)
        assert not (run / "summary.json").exists()
        resume(run, name, DEVICE)
    assert found.reads.total() > 20, "it ran on the device"
    assert_close(run, tmp_path / "cpu")


if __name__ == "__main__":
    name, run = sys.argv[1], Path(sys.argv[2])

    def kill(_: object) -> None:
        if steps_taken(run) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    train(run, name, DEVICE, kill)
