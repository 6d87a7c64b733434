"""A checkpoint is whole or not there, whatever happens while it is written."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from polopt.coordination import checkpoint
from polopt.record.files import hashed


def write(text: str):
    def files(directory: Path) -> None:
        (directory / "model.safetensors").write_text(text)
        (directory / "policy").mkdir()
        (directory / "policy" / "optimizer.safetensors").write_text(text * 2)

    return files


def test_saved_verified_and_linked(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, {"a": 1}, write("w"))
    assert path.name == "step_3"
    assert checkpoint.verified(path)
    assert checkpoint.read_state(path) == {"a": 1}
    assert os.readlink(tmp_path / "last") == "step_3"
    assert sorted(json.loads((path / "MANIFEST.json").read_text())["files"]) == [
        "model.safetensors",
        "policy/optimizer.safetensors",
        "state.json",
    ]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "policy/optimizer.safetensors", "state.json", "MANIFEST.json"]
)
@pytest.mark.parametrize("damage", ["empty", "half", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.save(tmp_path, 1, {}, write("old weights"))
    path = checkpoint.save(tmp_path, 2, {}, write("new weights"))
    file = path / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        file.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "flip": flipped}[damage]
        )
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_1"


def test_highest_step_wins_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint.save(tmp_path, step, {}, write("w"))
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_10"


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_a_failing_write_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {}, write("w"))

    def fails(directory: Path) -> None:
        (directory / "model.safetensors").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        checkpoint.save(tmp_path, 2, {}, fails)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step_1"]
    assert os.readlink(tmp_path / "last") == "step_1"


def test_other_bytes_than_were_to_be_written_are_found_when_they_are_read_back(
    tmp_path: Path,
) -> None:
    """The manifest has the hash of what was given to the file, not of what stands in it."""
    checkpoint.save(tmp_path, 1, {}, write("w"))

    def on_a_bad_disk(directory: Path) -> None:
        with hashed(directory / "model.safetensors") as put:
            put(b"weights")
        (directory / "model.safetensors").write_bytes(b"weighty")

    with pytest.raises(OSError, match="what was read back is not what was written"):
        checkpoint.save(tmp_path, 2, {}, on_a_bad_disk)
    assert os.readlink(tmp_path / "last") == "step_1"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"n": 1}, write("a"))
    path = checkpoint.save(tmp_path, 1, {"n": 2}, write("b"))
    assert checkpoint.read_state(path) == {"n": 2}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_prune_keeps_newest_and_pinned_and_clears_leftovers(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {}, write("w"))
    shutil.copytree(tmp_path / "step_1", tmp_path / ".tmp-9-1")
    checkpoint.prune(tmp_path, keep=2, pinned={"step_2"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step_2", "step_4", "step_5"]


CALLS = ["fsync", "replace", "rename", "symlink"]


class Dead(BaseException):
    """What ends a process: nothing of ours catches it."""


def calls(monkeypatch: pytest.MonkeyPatch, fatal: float = math.inf) -> list[str]:
    """The system calls that are made from here on, up to the one that is fatal."""
    made: list[str] = []

    def counted(name, function):
        def call(*args, **kwargs):
            if len(made) >= fatal:
                raise Dead
            made.append(name)
            return function(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)  # a dead process cleans nothing
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The calls of a second save, in their order."""
    directory = tmp_path_factory.mktemp("whole")
    checkpoint.save(directory, 1, {"n": 1}, write("old"))
    with pytest.MonkeyPatch.context() as patch:
        found = calls(patch)
        checkpoint.save(directory, 2, {"n": 2}, write("new"))
    return found


MOST = 24


def test_a_save_makes_no_more_calls_than_are_tried(made: list[str]) -> None:
    assert 10 < len(made) < MOST
    assert made.count("rename") == made.count("symlink") == 1


@pytest.mark.parametrize("fatal", range(MOST))
def test_death_at_any_system_call_leaves_a_whole_checkpoint(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """Every fsync, rename and link of a save in turn is the last thing that happens."""
    checkpoint.save(tmp_path, 1, {"n": 1}, write("old"))
    with monkeypatch.context() as patch:
        done = calls(patch, fatal)
        try:
            checkpoint.save(tmp_path, 2, {"n": 2}, write("new"))
            died = False
        except Dead:
            died = True
    assert died == (fatal < len(made))
    assert done == made[:fatal]
    named = 1 + made.index("rename")  # calls after which the new one has its name
    linked = len(made) - made[::-1].index("replace")  # and is the last one
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.read_state(newest) == {"n": 2 if fatal >= named else 1}
    assert checkpoint.verified(tmp_path / "last")
    assert os.readlink(tmp_path / "last") == ("step_2" if fatal >= linked else "step_1")
