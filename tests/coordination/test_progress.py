"""What people see while a run goes on."""

import pytest

from polopt.coordination import progress
from polopt.coordination.stage import Event

STAGE = Event("stage", {"name": "rl", "algorithm": "grpo", "steps": 40, "step": 0})


def metrics(step: int, **values: float) -> Event:
    return Event("metrics", {"step": step, "stage": "rl", "stage_step": step, **values})


def test_plain_lines_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 100.0, 101.0, 120.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress() as observe:
        observe(STAGE)
        observe(metrics(1, **{"reward/mean": 0.25}))
        observe(metrics(2, **{"reward/mean": 0.5}))  # a second later: not yet
        observe(metrics(3, **{"reward/mean": 0.75, "accuracy": 0.5}))
        observe(Event("message", {"text": "evaluating"}))
        observe(Event("warning", {"step": 0, "message": "nothing learns"}))
        observe(Event("summary", {"steps": 3}))
    shown = capsys.readouterr()
    assert shown.out == ""  # standard output is for results
    assert shown.err.splitlines() == [
        "rl: grpo, 40 steps",
        "rl 1/40  reward 0.250",
        "rl 3/40  reward 0.750  accuracy 0.500",
        "evaluating",
        "warning: nothing learns",
    ]


def test_one_step_is_no_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress() as observe:
        observe(Event("stage", {**STAGE.values, "steps": 1}))
    assert capsys.readouterr().err == "rl: grpo, 1 step\n"


def test_evaluations_are_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress() as observe:
        observe(STAGE)
        observe(metrics(1))
        observe(metrics(2, **{"eval/accuracy": 0.125}))
    assert "evaluation accuracy 0.125" in capsys.readouterr().err


def test_a_bar_where_somebody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress() as observe:
        observe(STAGE)
        observe(Event("message", {"text": "[bold]as it is[/bold]"}))
        observe(metrics(7, **{"reward/mean": 0.25, "eval/accuracy": 0.5}))
        observe(metrics(8, **{"reward/mean": 0.5}))
    shown = capsys.readouterr().err
    assert "[bold]as it is[/bold]" in shown
    assert "rl (grpo)" in shown and "8/40" in shown
    assert "evaluation accuracy 0.500" in shown  # the newest one stays


@pytest.mark.parametrize(("columns", "length"), [(80, False), (120, True)])
def test_counts_and_times_are_whole_on_a_narrow_screen(
    columns: int,
    length: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress.progress() as observe:
        observe(Event("stage", {"name": "train", "algorithm": "trpo", "steps": 100, "step": 0}))
        values = {"return/mean": 182.9, "episode/length": 182.9, "eval/return_mean": 383.2}
        observe(Event("metrics", {"stage": "train", "stage_step": 10, **values}))
    shown = capsys.readouterr().err
    assert "10/100" in shown and "0:00:00" in shown
    assert "return 182.9" in shown and "evaluation mean return 383.2" in shown
    assert ("length 182.9" in shown) is length
    assert "…" not in shown


def test_runs_in_control_have_returns(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress() as observe:
        observe(Event("stage", {"name": "train", "algorithm": "ppo", "steps": 2, "step": 0}))
        observe(Event("metrics", {"stage": "train", "stage_step": 0, "eval/return_mean": -1231.4}))
        values = {"return/mean": 142.84, "episode/length": 71.5, "eval/return_mean": 9.25}
        observe(Event("metrics", {"stage": "train", "stage_step": 1, **values}))
    assert capsys.readouterr().err.splitlines() == [
        "train: ppo, 2 steps",
        "train 0/2  evaluation mean return -1,231",
        "train 1/2  return 142.8  length 71.5  evaluation mean return 9.250",
    ]
