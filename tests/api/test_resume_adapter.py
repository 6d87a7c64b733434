"""A run that trains adapters ends with the same bits, wherever it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import even, variety
from polopt.errors import RunDirectoryError
from runs import BRIEF, Crash, assert_same, metrics

FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


def some(value: int) -> Any:
    """Among the long proofs."""
    return pytest.param(value, marks=pytest.mark.slow)


def train(directory: Path, observers: Any = (), **flags: Any) -> None:
    named = {"run.directory": str(directory), "model.lora": 4, **flags}
    polopt.train(BRIEF, flags=named, reward=variety, observers=observers)


def resume(directory: Path) -> None:
    polopt.resume(directory, reward=variety)


def assert_same_adapter(run: Path, expected: Path) -> None:
    assert_same(run, expected)
    for file in FILES:
        one, two = (r / "checkpoints" / "last" / file for r in (run, expected))
        assert one.read_bytes() == two.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that kept the checkpoint of every step."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(directory, **{"run.checkpoint_every": 1, "run.keep": 100})
    return directory


@pytest.mark.parametrize("number", [3, 8, some(12), 15, some(17)])
def test_after_a_crash(tmp_path: Path, whole: Path, number: int) -> None:
    seen = iter(range(1000))

    def crash(_: object) -> None:
        if next(seen) == number:
            raise Crash

    with pytest.raises(Crash):
        train(tmp_path / "run", [crash])
    resume(tmp_path / "run")
    assert_same_adapter(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [some(1), 2, 3, *map(some, (4, 5)), 6, some(7), 8])
def test_from_the_checkpoint_of_any_step(tmp_path: Path, whole: Path, step: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    for later in range(step + 1, 9):
        shutil.rmtree(run / "checkpoints" / f"step_{later}")
    resume(run)
    assert_same_adapter(run, whole)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("ppo", {"update": {"epochs": 2, "learning_rate": 1e-3}}),
        ("ppo", {"critic": {"trunk": "shared"}}),
        ("trpo", {}),
        ("prime", {}),
    ],
)
def test_a_row_with_more_than_an_actor(tmp_path: Path, name: str, sections: Any) -> None:
    """Critics and process reward models stand in the checkpoint beside the adapter."""
    recipe = {
        "algorithm": name,
        "model": {"path": "builtin:tiny", "lora": 4},
        "data": BRIEF["data"],
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
        "evaluation": {"prompts": 4},
        "run": {"steps": 4, "threads": 1, "checkpoint_every": 2},
        **sections,
    }

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    whole, run, reward = tmp_path / "whole", tmp_path / "run", even if name == "prime" else variety
    polopt.train(recipe, flags={"run.directory": str(whole)}, reward=reward)
    with pytest.raises(Crash):
        polopt.train(recipe, flags={"run.directory": str(run)}, reward=reward, observers=[crash])
    polopt.resume(run, reward=reward)
    assert metrics(run) == metrics(whole)
    assert tensors(run) == tensors(whole)


def tensors(run: Path) -> dict[str, bytes]:
    """Every file of tensors in the last checkpoint."""
    last = (run / "checkpoints" / "last").resolve()
    return {str(f.relative_to(last)): f.read_bytes() for f in last.rglob("*.safetensors")}


def test_a_damaged_base_is_not_resumed_on(tmp_path: Path, whole: Path) -> None:
    """The adapter of a later step is worth nothing on other weights."""
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_8")
    weights = run / "checkpoints" / "step_3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunDirectoryError, match="is damaged, and rl needs it"):
        resume(run)
