"""What people see while a run goes on."""

import pytest

from polopt.coordination import progress
from polopt.coordination.stage import Event

STAGE = Event("stage", {"name": "rl", "algorithm": "grpo", "steps": 40, "step": 0})


def metrics(step: int, **values: float) -> Event:
    return Event("metrics", {"step": step, "stage": "rl", "stage_step": step, **values})


def seconds(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    clock = iter(times)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))


def lines(monkeypatch: pytest.MonkeyPatch, steps: int, *times: float, done: int = 0) -> list[str]:
    """The places of the lines of a stage whose steps end at these times."""
    written = list[str]()
    observe = progress._Lines(written.append)
    seconds(monkeypatch, *times)
    observe(Event("stage", {**STAGE.values, "steps": steps, "step": done}))
    for step in range(1, len(times) + 1):
        observe(metrics(done + step))
    return [line.split()[1] for line in written[1:]]


def test_plain_lines_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, 100, 101, 131)
    with progress.progress() as observe:
        observe(STAGE)
        observe(metrics(1, **{"reward/mean": 0.25}))
        observe(metrics(2, **{"reward/mean": 0.5}))  # a second later: not yet
        observe(
            metrics(
                3,  # half a minute: another one would end too late
                **{"reward/mean": 0.75, "accuracy": 0.5},
            )
        )
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


def test_a_line_for_each_tenth_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for the first step; a stage that goes on tells of its tenths, too."""
    told = lines(monkeypatch, 100, *range(100))
    assert told == ["1/100", *(f"{step}/100" for step in range(10, 101, 10))]
    assert lines(monkeypatch, 4, 1, 2, 3, 4) == ["1/4", "2/4", "3/4", "4/4"]
    assert lines(monkeypatch, 100, *range(25), done=55) == ["56/100", "60/100", "70/100", "80/100"]


def test_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line comes before the step with which it would be late; long steps have one each."""
    assert lines(monkeypatch, 1000, *range(0, 100, 7)) == [
        f"{step}/1000"
        for step in (1, 5, 9, 13)  # seconds 0, 28, 56, 84
    ]
    assert lines(monkeypatch, 1000, 0, 60, 120) == ["1/1000", "2/1000", "3/1000"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"policy/loss": 0.0, "reward/mean": 0.25, "kl/measured": 1.5, "policy/approx_kl": 9.0,
             "policy/grad_norm": 12.25, "policy/entropy": 2.0, "response/length": 4.0},
            "reward 0.250  kl 1.500  gradient norm 12.2  entropy 2.000  length 4.000",
        ),
        (
            {"policy/loss": 0.0, "return/mean": -20.5, "policy/approx_kl": 0.00014},
            "return -20.5  kl 1.4e-04",
        ),
        ({"policy/loss": 5.0, "policy/nll": 4.5, "policy/grad_norm": 1.0}, "loss 4.500  gradient "
         "norm 1.000"),
        ({"policy/loss": 0.6875, "policy/pair_accuracy": 0.5}, "loss 0.688  pair accuracy 0.500"),
        ({"reward_model/loss": 0.5, "reward_model/grad_norm": 2.0}, "loss 0.500  gradient norm "
         "2.000"),
        ({"reward_model/loss": 0.5, "reward/mean": 2.0}, "reward 2.000"),
    ],
)  # fmt: skip
def test_what_moves_is_shown(
    values: dict[str, float], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress() as observe:
        observe(STAGE)
        observe(metrics(1, **values))
    assert capsys.readouterr().err.splitlines()[1] == f"rl 1/40  {told}"


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


@pytest.mark.parametrize(("columns", "more"), [(80, 0), (120, 1), (170, 3)])
def test_counts_and_times_are_whole_on_a_narrow_screen(
    columns: int,
    more: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress.progress() as observe:
        observe(Event("stage", {"name": "train", "algorithm": "trpo", "steps": 100, "step": 0}))
        values = {"return/mean": 182.9, "policy/kl": 0.25, "policy/grad_norm": 2.5}
        values |= {"episode/length": 182.9, "eval/return_mean": 383.2}
        observe(Event("metrics", {"stage": "train", "stage_step": 10, **values}))
    shown = capsys.readouterr().err
    assert "10/100" in shown and "0:00:00" in shown
    assert "return 182.9" in shown and "evaluation mean return 383.2" in shown
    told = [text in shown for text in ("kl 0.250", "gradient norm 2.500", "length 182.9")]
    assert told == [number < more for number in range(3)]
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
