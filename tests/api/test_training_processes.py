"""The trainings of a comparison are processes: what they say, how they die, and signals."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from polopt.api.trainings import Interrupted, child
from polopt.errors import RunDirectoryError
from runs import command, start, steps_taken, wait_for

RECIPE = """
algorithm = "grpo"
model.path = "builtin:tiny"
data = { source = "task:reverse", parameters = { length = 2 } }
rollout = { prompts_per_step = 2, group_size = 2, max_new_tokens = 4 }
evaluation.prompts = 8
run = { steps = 6, threads = 1 }
"""


def pretend(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    """Another program in the place of Python."""
    program = directory / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo noise; echo '{}'", {}),
        ("""echo '{"failed": "NaN"}'""", {"failed": "NaN"}),
        ("kill -9 $$", {"failed": "killed by signal 9"}),
        ("exit 1", {"failed": "ended with exit code 1; the reason went to stderr"}),
    ],
)
def test_how_a_training_ends(
    script: str, found: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    pretend(monkeypatch, tmp_path, script)
    assert child(tmp_path) == found
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_what_ends_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, """echo '{"broken": "the disk is full"}'""")
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        child(tmp_path)
    pretend(monkeypatch, tmp_path, "exit 143")
    with pytest.raises(Interrupted, match="the same command goes on") as stopped:
        child(tmp_path)
    assert stopped.value.exit_code == 143


@pytest.mark.slow  # a kill is tested at every change: tests/end_to_end/test_compare_kill.py
def test_a_comparison_that_is_stopped_goes_on(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    place = tmp_path / "c"
    asked = ["compare", tmp_path / "r.toml", "--algorithms", "grpo,rloo"]
    asked += ["--seeds", 1, "--out", place, "--json"]
    running = start(*asked)
    wait_for(lambda: steps_taken(place / "grpo-1") > 0)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=240)
    assert (running.returncode, output) == (143, ""), errors
    assert errors.splitlines()[-1] == "stopped and saved; the same command goes on"
    assert not (place / "grpo-1" / "summary.json").exists()
    code, output, errors = command(*asked)
    assert code == 0, errors
    found = json.loads(output)
    assert [arm["finished"] for arm in found["arms"]] == [1, 1]
    assert "resuming from" in errors
    assert all(arm["memory"] > 0 for arm in found["arms"])
    assert (place / "compare.html").is_file()
