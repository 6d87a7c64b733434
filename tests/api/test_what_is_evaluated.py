"""What ``polopt eval`` is pointed at: a directory, or a hub id; anything else is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt import api
from polopt.api.examine import Asked
from polopt.cli import main
from polopt.errors import RecipeError

WANTED = "that of a run, a checkpoint or a model, or a hub id with --data or data.source"


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        ("runs/nothere", ()),
        ("nothere", ()),
        ("./nothere", ("--data.source", "task:chain_sum")),
        ("runs/a/checkpoints/nothere", ("--data.source", "task:chain_sum")),
    ],
)
def test_a_directory_that_is_not_there_is_told(
    target: str,
    flags: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", target, *flags]) == 2
    assert capsys.readouterr().err == f"error: {target}: no such directory; {WANTED}\n"


@pytest.mark.parametrize("target", ["org/name-1.5", "gpt2", "builtin:tiny"])
def test_a_hub_id_is_handed_on(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr("polopt.api.examine.examine", lambda *values: asked.append(values))
    api.evaluate(target, flags={"data.source": "task:chain_sum"})
    assert [values[1:] for values in asked] == [(target, Asked())]


def test_a_file_and_several_answers_in_control_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables: dict[str, Any] = {
        "algorithm": "ppo",
        "model": {"path": "builtin:mlp"},
        "data": {"source": "control:cartpole"},
        "episodes": {"environments": 2, "steps": 8},
        "evaluation": {"episodes": 2},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")},
    }
    last = polopt.train(tables).directory / "checkpoints" / "last"
    source = ("--data.source", "control:cartpole")

    def told(*words: str) -> str:
        assert main(["eval", *words]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    file = str(last / "policy.safetensors")
    wanted = "the directory of a run, a checkpoint or a model"
    assert told(file, *source) == f"error: {file}: a file; {wanted}"
    assert told(str(last), *source, "--k", "4") == (
        "error: --k: 4 is not allowed in control, where the likeliest actions alone are taken; "
        "1, and evaluation.episodes for more episodes"
    )


def test_a_checkpoint_is_evaluated_on_the_data_of_its_run(tmp_path: Path) -> None:
    data = {"source": "task:reverse", "parameters": {"length": 2}}
    recipe: dict[str, Any] = {"algorithm": "sft", "model": {"path": "builtin:tiny"}, "data": data}
    recipe |= {"evaluation": {"prompts": 8}, "rollout": {"max_new_tokens": 4}}
    run = {"steps": 2, "checkpoint_every": 1, "threads": 1, "directory": str(tmp_path / "run")}
    polopt.train(recipe | {"run": run})
    checkpoints = tmp_path / "run" / "checkpoints"
    last = polopt.evaluate(tmp_path / "run")[0].metrics
    assert polopt.evaluate(checkpoints / "last")[0].metrics == last
    assert polopt.load(checkpoints / "last").respond(["ab="]) == polopt.load(
        tmp_path / "run"
    ).respond(["ab="])
    alone = shutil.copytree(checkpoints / "last", tmp_path / "alone")  # a model, and no more
    with pytest.raises(RecipeError, match=r"data\.source: missing"):
        polopt.evaluate(alone)
    assert polopt.load(alone).respond(["ab="]) == polopt.load(tmp_path / "run").respond(["ab="])
