"""A run that trains adapters ends with the same bits, wherever it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.errors import RunDirectoryError
from runs import BRIEF, Crash, assert_same, variety

FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


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


@pytest.mark.parametrize("number", [3, 8, 12, 15, 17])
def test_after_a_crash(tmp_path: Path, whole: Path, number: int) -> None:
    seen = iter(range(1000))

    def crash(_: object) -> None:
        if next(seen) == number:
            raise Crash

    with pytest.raises(Crash):
        train(tmp_path / "run", [crash])
    resume(tmp_path / "run")
    assert_same_adapter(tmp_path / "run", whole)


@pytest.mark.parametrize("step", range(1, 9))
def test_from_the_checkpoint_of_any_step(tmp_path: Path, whole: Path, step: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    for later in range(step + 1, 9):
        shutil.rmtree(run / "checkpoints" / f"step_{later}")
    resume(run)
    assert_same_adapter(run, whole)


def test_a_damaged_base_is_not_resumed_on(tmp_path: Path, whole: Path) -> None:
    """The adapter of a later step is worth nothing on other weights."""
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_8")
    weights = run / "checkpoints" / "step_3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunDirectoryError, match="is damaged, and rl needs it"):
        resume(run)
