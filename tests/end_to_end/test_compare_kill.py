"""A comparison that is killed loses nothing but time: the same command goes on where it was."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.api import trainings
from polopt.record.following import owner
from runs import assert_same, metrics, start, steps_taken, wait_for
from trained_here import here

RECIPE = """
algorithm = "grpo"
model.path = "builtin:tiny"
data = { source = "task:chain_sum", parameters = { terms = 3, modulus = 5 } }
rollout = { max_new_tokens = 4, prompts_per_step = 2, group_size = 2 }
evaluation.prompts = 2
run = { steps = 60, threads = 1, checkpoint_every = 5 }
"""


def test_killed_with_and_without_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    place = tmp_path / "c"
    words = ("compare", tmp_path / "recipe.toml", "--algorithms", "grpo,rloo", "--seeds", 1)
    words = (*words, "--out", place)
    run = place / "grpo-1"

    process = start(*words)
    wait_for(lambda: steps_taken(run) >= 8)
    process.kill()  # its training sees the end of its input, saves, and ends
    process.communicate()  # until that one has ended, which holds the other end of the pipe
    assert owner(run) is None
    reached = metrics(run)[-1]["step"]
    assert 7 <= reached < 60

    process = start(*words)
    wait_for(lambda: steps_taken(run) >= reached + 8)
    of_run = owner(run)
    assert of_run is not None
    process.kill()
    os.kill(of_run.process, signal.SIGKILL)  # nothing can save now
    _, errors = process.communicate()
    assert f"resuming from step_{reached}\n" in errors
    reached = metrics(run)[-1]["step"]
    assert reached < 60

    monkeypatch.setattr(trainings, "child", here)  # in this process it is faster
    asked: dict[str, Any] = {"algorithms": ["grpo", "rloo"], "seeds": 1}
    polopt.compare(tmp_path / "recipe.toml", **asked, out=place)
    assert f"resuming from step_{reached // 5 * 5}\n" in capsys.readouterr().err
    polopt.compare(tmp_path / "recipe.toml", **asked, out=tmp_path / "calm")
    assert_same(run, tmp_path / "calm" / "grpo-1")
