"""Preferences teach adapters: DPO against the base, a reward model with its head beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import polopt
from polopt.models import load, load_scalar
from polopt.seeding import derive
from runs import Crash, lines, metrics

RANK = 2


def train(name: str, directory: Path, observers: Any = (), **settings: Any) -> Path:
    recipe = {
        "algorithm": name,
        "model": {"path": "builtin:tiny", "lora": RANK},
        "data": {"source": "task:taste"},
        "update": {"learning_rate": 1e-2, "batch_size": 4},
        "evaluation": {"prompts": 4},
        "run": {"steps": 4, "threads": 1, "checkpoint_every": 1, "directory": str(directory)},
        **settings,
    }
    polopt.train(recipe, observers=observers)
    return directory / "checkpoints" / "last"


def base_weights() -> dict[str, torch.Tensor]:
    return load("builtin:tiny", seed=derive(1, "model")).model.state_dict()


def assert_only_the_adapter_moved(last: Path) -> None:
    adapter = load_file(last / "adapter" / "adapter_model.safetensors")
    assert sum("lora_" in name for name in adapter) == 28
    moved = load_file(last / "model.safetensors")
    for name, tensor in base_weights().items():
        if name in moved:  # neither a tied head nor one that is not there
            change = moved[name] - tensor
            rank = RANK if name.endswith("_proj.weight") else 0
            assert torch.linalg.matrix_rank(torch.atleast_2d(change), rtol=1e-3) == rank, name


def test_dpo_trains_an_adapter_against_its_base(tmp_path: Path) -> None:
    last = train("dpo", tmp_path / "run")
    assert_only_the_adapter_moved(last)
    first, *_ = [line for line in lines(tmp_path / "run", "metrics") if line["stage_step"]]
    # Every log-ratio is 0: -log σ(0) = log 2, exactly, and no pair is ahead of another.
    assert first["policy/loss"] == pytest.approx(0.693147, abs=1e-6)


def test_a_reward_model_trains_its_head_beside_the_adapter(tmp_path: Path) -> None:
    last = train("reward_model", tmp_path / "run")
    assert_only_the_adapter_moved(last)
    adapter = load_file(last / "adapter" / "adapter_model.safetensors")
    (head,) = [tensor for name, tensor in adapter.items() if "lora_" not in name]
    assert head.abs().sum() > 0  # it began at 0
    assert torch.equal(load_scalar(str(last)).head.weight, head)


@pytest.mark.parametrize("name", ["dpo", "reward_model"])
def test_a_crash_costs_nothing(name: str, tmp_path: Path) -> None:
    expected = train(name, tmp_path / "expected")

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    with pytest.raises(Crash):
        train(name, tmp_path / "run", [crash])
    polopt.resume(tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last"
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (last / file).read_bytes() == (expected / file).read_bytes()
    assert metrics(tmp_path / "run") == metrics(tmp_path / "expected")
