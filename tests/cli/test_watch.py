"""A run in the terminal, from its files alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polopt.cli import main, watching
from polopt.report.status import Watched

CONFIG = {
    "name": "quickstart",
    "stages": [
        {"name": "sft", "algorithm": "sft", "settings": {"run.steps": 5}},
        {"name": "rl", "algorithm": "grpo", "settings": {"run.steps": 40}},
    ],
}


def line(step: int, **values: float) -> dict[str, Any]:
    return {"step": 5 + step, "stage": "rl", "stage_step": step, "time/step": 2.0, **values}


METRICS = [
    {"step": 5, "stage": "sft", "stage_step": 5, "policy/nll": 1.0, "time/step": 9.0},
    {"step": 5, "stage": "rl", "stage_step": 0, "eval/accuracy": 0.25},
    line(1, **{"reward/mean": 0.5, "reward/right": 0.25, "reward/format": 0.75}),
    line(
        10,
        **{
            "reward/mean": 0.75,
            "reward/right": 0.5,
            "reward/format": 1.0,
            "kl/measured": 3.0,
            "policy/entropy": 0.5,
            "response/length": 12.0,
            "eval/accuracy": 0.5,
            "eval/accuracy_low": 0.4,
            "eval/accuracy_high": 0.6,
        },
    ),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that goes on: its owner is this process."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    write(directory, "metrics", METRICS)
    own(directory, os.getpid())
    return directory


def write(run: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def own(run: Path, process: int, host: str = "") -> None:
    (run / ".owner").write_text(f"process {process} on {host or socket.gethostname()}\n")


def shown(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["watch", str(run), "--once"]) == 0
    return capsys.readouterr().out


def test_stage_step_speed_and_time_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run, capsys)
    assert f"runs: process {os.getpid()} on {socket.gethostname()}" in text
    assert "stage 2 of 2, rl (grpo)  step 10 of 40" in text
    assert "2.0\u202fs a step" in text and "1\u202fmin 0\u202fs left of the stage" in text


def test_figures_with_their_parts_and_where_they_come_from(run: Path) -> None:
    found = {one.name: one for one in Watched(run).look().figures}
    assert next(iter(found)) == "held-out accuracy"
    assert found["held-out accuracy"].note == "0.400 to 0.600, at step 10"
    assert (found["held-out accuracy"].first, found["held-out accuracy"].now) == (0.25, 0.5)
    assert (found["reward"].first, found["reward"].now) == (0.5, 0.75)
    assert found["reward right"].now == 0.5 and found["reward format"].now == 1.0
    assert {"kl", "entropy", "length"} <= found.keys()


def test_alarms_and_warnings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "alarm kl: it is far: it lost something; try less"
    write(
        run,
        "alarms",
        [
            {"step": 9, "stage": "rl", "alarm": "kl", "message": message},
            {"step": 9, "stage": "rl", "alarm": "kl", "back_to": 7},
        ],
    )
    rows = [{"step": n, "stage": "rl", "message": f"odd \x1b[31m{n}"} for n in range(5)]
    write(run, "warnings", [*rows, {"step": 9, "stage": "rl", "message": message}])
    text = shown(run, capsys)
    assert "step 9: kl: it is far: it lost something; try less" in text
    assert "step 9: back to step 7, after the alarm kl" in text
    assert text.count("it is far") == 1  # as an alarm, and not as a warning again
    assert "warnings, the newest 3 of 5" in text and "odd \\x1b[31m4" in text
    assert "\x1b[31m" not in text


def test_whether_it_lives(run: Path) -> None:
    assert Watched(run).look().goes_on
    late = (run / "metrics.jsonl").stat().st_mtime + 600
    assert Watched(run).look(late).state.startswith("stands still: process")
    own(run, 7, "elsewhere")
    found = Watched(run).look()
    assert found.goes_on and "cannot be seen from this machine" in found.state
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    own(run, gone.pid)
    found = Watched(run).look()
    assert not found.goes_on and "is gone" in found.state and "polopt resume" in found.state
    assert found.left is None
    (run / ".owner").unlink()
    assert Watched(run).look().state.startswith("stopped, the last line is")
    (run / "summary.json").write_text("{}")
    assert Watched(run).look().state == "finished"


def test_a_run_that_has_recorded_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    text = shown(run, capsys)
    assert "no step yet" in text and "stage 1 of 2, sft (sft)  step 0 of 5" in text


def test_json_is_all_there_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["step"], found["goes_on"]) == ("rl", 10, True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "RUN: missing; the directory of a run"),
        (["nowhere"], "nowhere: no such run directory; start one with: polopt train"),
    ],
)
def test_what_is_no_run(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *words]) == 2
    assert error in capsys.readouterr().err


def test_it_ends_with_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it looks again until the run has ended."""
    looked = list[float]()

    def sleep(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            (run / ".owner").unlink()
            (run / "summary.json").write_text("{}")

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(watching.sys.stdout, "isatty", lambda: True, raising=False)
    watching.watch(run, once=False, as_json=False)
    assert len(looked) == 3


def test_no_torch_and_no_numpy(run: Path) -> None:
    program = (
        "import sys; from polopt.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys(); sys.exit(code)"
    )
    words = [sys.executable, "-c", program, "watch", str(run), "--once"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_blocks_from_the_lowest_to_the_highest() -> None:
    assert watching.trend([0.0, 1.0, 0.5]) == "▁█▅"
    assert watching.trend([2.0, 2.0]) == "▁▁"
