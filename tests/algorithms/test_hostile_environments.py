"""Environments of somebody else: what they do wrong is one line, and nothing is lost by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from polopt.cli import main
from runs import lines

gymnasium = pytest.importorskip("gymnasium")
MODULE = """
import sys

import gymnasium
import numpy as np


class Hostile(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None, how=""):
        self.how, self.steps, self.all = how, 0, 0
        if how == "made":
            raise KeyError("no\\nmodel")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, seen = 0, np.zeros(3, dtype=np.float32)
        if self.how == "reset":
            raise OSError("no licence")
        if self.how == "nan at first" or (self.how == "nan at second" and self.all):
            seen[1] = np.nan
        return seen, {}

    def step(self, action):
        self.steps += 1
        self.all += 1
        seen = np.full(3, 0.1, dtype=np.float32)
        if self.how == "step" and self.all == 27:
            raise RuntimeError("the simulator\\nis gone")
        if self.how == "exit" and self.all == 27:
            sys.exit(3)
        if self.how == "random":
            seen += np.random.uniform(0, 0.5, 3).astype(np.float32)
        if self.how == "shape":
            seen = np.zeros(4, dtype=np.float32)
        if self.how == "infinite" and self.steps == 7:
            seen[2] = np.inf
        reward = np.nan if self.how == "nan reward" and self.steps == 7 else 1.0
        return seen, reward, self.steps == 10 and self.how != "endless", False, {}


gymnasium.register("Hostile-v0", entry_point="hostile_envs:Hostile")
"""
ADVICE = (
    "data.source: control:hostile_envs:Hostile-v0 has no max_episode_steps; if its episodes do not "
    "end by themselves, data.parameters.max_episode_steps cuts them"
)
RECIPE = """
algorithm = "ppo"
[model]
path = "builtin:mlp"
[data]
source = "control:hostile_envs:Hostile-v0"
[episodes]
environments = 2
steps = 8
[evaluation]
episodes = 2
[run]
steps = 4
threads = 1
checkpoint_every = 1
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "hostile_envs.py").write_text(MODULE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile_envs", raising=False)
    monkeypatch.delitem(gymnasium.registry, "Hostile-v0", raising=False)
    return str(tmp_path / "recipe.toml")


def trained(recipe: str, *words: str) -> tuple[int, Path]:
    directory = Path(recipe).parent / "run"
    return main(["train", recipe, "--run.directory", str(directory), *words]), directory


def told(capsys: Any) -> str:
    """The last line, which is the error."""
    return capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")


def test_an_environment_of_ones_own_is_named_by_its_module(recipe: str, recwarn: Any) -> None:
    code, directory = trained(recipe)
    assert code == 0
    assert not [one for one in recwarn if "render_mode" in str(one.message)]  # it cannot be drawn
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["return_mean_after"] == 10.0
    assert main(["eval", str(directory)]) == 0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("made", "'control:hostile_envs:Hostile-v0' cannot be made: KeyError: 'no\\nmodel' "),
        (
            "reset",
            "environment 0 of Hostile-v0 raised as its episode began: OSError: no licenc",
        ),
        ("shape", "Hostile-v0 raised in step 1, counted from the first reset on: ValueError: "),
        ("nan at first", "number 1 of the observation of environment 0 is nan as its episode begi"),
        ("nan at second", "number 1 of the observation of environment 0 is nan as its episode beg"),
        ("infinite", "number 2 of the observation of environment 0 is inf in step 7 of its episod"),
        ("nan reward", "the reward of environment 0 is nan in step 7 of its episode; a finite num"),
    ],
)
def test_what_it_does_wrong_is_one_line(recipe: str, how: str, expected: str, capsys: Any) -> None:
    code, directory = trained(recipe, "--data.parameters.how", how)
    assert code == 2
    assert told(capsys).startswith(f"data.source: {expected}")
    assert directory.exists() == (how == "nan at second")  # before, there is nothing to resume


def test_an_episode_without_an_end_is_not_waited_for(
    recipe: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polopt.rollout.episodes.PATIENCE", 50)
    words = ("--data.parameters.how", "endless")
    assert trained(recipe, *words)[0] == 2
    lines_told = capsys.readouterr().err.splitlines()
    assert lines_told.count(ADVICE) == 1
    assert lines_told[-1].removeprefix("error: ") == (
        "data.source: an episode has not ended after 50 steps; an environment with a time limit "
        "(of gymnasium: data.parameters.max_episode_steps)"
    )
    code, directory = trained(recipe, *words, "--data.parameters.max_episode_steps", "40")
    assert code == 0
    assert ADVICE not in capsys.readouterr().err
    assert json.loads((directory / "summary.json").read_text())["length"] == 40


def test_what_learns_from_a_buffer_tells_the_same(recipe: str, capsys: Any) -> None:
    text = Path(recipe).with_name("hostile_envs.py")
    text.write_text(text.read_text().replace("spaces.Discrete(2)", "spaces.Box(-1.0, 1.0, (2,))"))
    words = ("--algorithm", "sac", "--episodes.steps", "16")
    assert trained(recipe, *words, "--data.parameters.how", "nan at second")[0] == 2
    assert told(capsys).startswith("data.source: number 1 of the observation of environment 0 is n")


@pytest.mark.parametrize(
    ("how", "reason"),
    [("step", "RuntimeError: the simulator is gone"), ("exit", "SystemExit: 3")],
)
def test_an_environment_that_breaks_loses_nothing(
    how: str, reason: str, recipe: str, capsys: Any
) -> None:
    """27 steps are two episodes of 10 and 7 steps of a third."""
    code, directory = trained(recipe, "--data.parameters.how", how)
    assert code == 2
    error, _, hint = told(capsys).rpartition("; ")
    begins = f"data.source: environment 0 of Hostile-v0 raised in step 7 of its episode: {reason} ("
    assert error.startswith(f"{begins}hostile_envs.py:"), error
    assert hint == f"go on from step_3 with: polopt resume {directory}"
    assert lines(directory, "warnings") == [
        {"step": 3, "stage": "train", "message": f"the run ended: {error}"}
    ]
    before = lines(directory, "metrics")
    assert [line["step"] for line in before] == [0, 1, 2, 3]
    mended = Path(recipe).with_name("hostile_envs.py")
    import hostile_envs  # type: ignore[import-not-found]

    assert mended.is_file()
    step = hostile_envs.Hostile.step
    hostile_envs.Hostile.step = lambda self, action: step(setattr(self, "how", "") or self, action)
    assert main(["resume", str(directory)]) == 0
    after = lines(directory, "metrics")
    assert after[:4] == before and [line["step"] for line in after] == [0, 1, 2, 3, 4]


def test_a_module_that_is_not_there_is_told(recipe: str, capsys: Any) -> None:
    assert trained(recipe, "--data.source", "control:no_such_envs:Hostile-v0")[0] == 2
    assert told(capsys) == (
        "data.source: 'control:no_such_envs:Hostile-v0': No module named 'no_such_envs'; an "
        "installed module, or PYTHONPATH=. for one in this directory"
    )
    assert trained(recipe, "--data.source", "control:hostile_envs:Hostle-v0")[0] == 2
    assert told(capsys).endswith("did you mean control:hostile_envs:Hostile-v0?")


def test_who_does_not_repeat_itself_is_warned_of(recipe: str, capsys: Any) -> None:
    code, directory = trained(recipe, "--data.parameters.how", "random", "--run.steps", "1")
    assert code == 0
    assert main(["resume", str(directory), "--run.steps", "2"]) == 0
    about = "data.source: the environments do not repeat themselves; "
    assert f"warning: {about}" in capsys.readouterr().err
    (warned,) = lines(directory, "warnings")
    assert (warned["step"], warned["stage"]) == (1, "train")
    assert warned["message"].startswith(about)
