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
run = { steps = 40, threads = 1, checkpoint_every = 5 }
"""


@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_alone_or_with_its_training(
    both: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Alone, its training sees the end of its input and saves; else the last checkpoint is left."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    place = tmp_path / "c"
    run = place / "grpo-1"
    words = ("--algorithms", "grpo,rloo", "--seeds", 1, "--out", place)
    process = start("compare", tmp_path / "recipe.toml", *words)
    wait_for(lambda: steps_taken(run) >= 8)
    training = owner(run)
    assert training is not None
    if both:
        os.kill(training.process, signal.SIGSTOP)  # nothing comes between the two kills
    process.kill()
    if both:
        os.kill(training.process, signal.SIGKILL)
    process.communicate()  # until the training has ended, which holds the other end of the pipe
    left = owner(run)
    assert (left is not None and left.lives is False) if both else left is None
    reached = metrics(run)[-1]["step"]
    assert 7 <= reached < 40

    monkeypatch.setattr(trainings, "child", here)  # in this process it is faster
    asked: dict[str, Any] = {"algorithms": ["grpo", "rloo"], "seeds": 1}
    polopt.compare(tmp_path / "recipe.toml", **asked, out=place)
    saved = reached // 5 * 5 if both else reached
    assert f"resuming from step_{saved}\n" in capsys.readouterr().err
    polopt.compare(tmp_path / "recipe.toml", **asked, out=tmp_path / "calm")
    assert_same(run, tmp_path / "calm" / "grpo-1")
