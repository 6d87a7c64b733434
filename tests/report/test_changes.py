"""What each stage changed, for the page and for the terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
from control_run import cartpole, write_control_run
from sample_run import lines, write_run

from polopt.report import load, write
from polopt.report.changes import around, changed
from polopt.report.measures import changes, decimals, fixed, kind_of, of_stages


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def titles(run: Path) -> dict[str, list[str]]:
    return {one.stage: [figure.title for figure in one.figures] for one in changed(load(run))}


def rewrite(run: Path, *stages: dict[str, Any]) -> None:
    """Replace what the summary says of its stages."""
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"] = [{**old, **new} for old, new in zip(summary["stages"], stages, strict=True)]
    (run / "summary.json").write_text(json.dumps(summary))


def both(**metrics: float) -> dict[str, Any]:
    return {when: {"metrics": metrics, "intervals": {}} for when in ("before", "after")}


def test_every_stage_is_shown_with_its_figures_in_order(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4)
    assert titles(run) == {
        "sft": ["loss on demonstrations", "accuracy of tokens", "accuracy of answers"],
        "rl": ["accuracy", "KL of a token, last batch", "tokens of a response"],
    }
    (loss, *_), (accuracy, kl, _) = (one.figures for one in changed(load(run)))
    assert [(m.kind, m.value, m.interval) for m in loss.marks] == [
        ("before", "5.600", "5.500 to 5.700"),
        ("after", "0.570", "0.510 to 0.630"),
    ]
    assert [(plain(m.value), plain(m.interval)) for m in accuracy.marks] == [
        ("48.0 %", "43.8 to 52.4 %"),
        ("97.3 %", "95.5 to 98.4 %"),
    ]
    before = accuracy.marks[0]
    assert (before.at, before.low, before.high) == (0.4805, 0.438, 0.524)
    assert loss.ends == ("0", "6") and loss.marks[0].at == pytest.approx(5.6 / 6)
    assert kl.mark("before") is None and kl.ends is None  # of one batch, not of an evaluation


ANSWERS = {"accuracy": 0.5, "reward": 0.6, "length": 9.0, "truncated": 0.0, "planted": 1.0}
PAIRS = {"calibration_error": 0.1, "reward_margin": 1.0, "reward_chosen": 1.0}


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        (ANSWERS, ["accuracy", "reward", "length", "truncated"]),
        (ANSWERS | {"kl": 0.1}, ["accuracy", "reward", "kl", "length", "truncated"]),
        (
            ANSWERS | {"token_accuracy": 0.5, "nll": 1.0},
            ["nll", "token_accuracy", "accuracy", "reward"],
        ),
        (PAIRS | {"accuracy": 0.9}, ["accuracy", "calibration_error", "reward_margin"]),
        (
            ANSWERS | PAIRS | {"pair_accuracy": 0.9},
            ["pair_accuracy", "reward_margin", "accuracy", "reward"],
        ),
        (
            {"return_std": 1.0, "return_mean": 2.0, "length": 3.0},
            ["return_mean", "length"],
        ),
        ({"reward": 1.0}, ["reward"]),
    ],
)
def test_the_figures_that_matter_come_first(measured: dict[str, float], shown: list[str]) -> None:
    found = [one.name for one in changes(None, {"metrics": measured})]
    assert found[: len(shown)] == shown
    assert sorted(found) == sorted(measured)
    assert [name for name in kind_of(measured).matter if name in measured] == shown


def test_the_accuracy_of_a_reward_model_is_said_to_be_on_pairs() -> None:
    assert kind_of(PAIRS | {"accuracy": 0.9}).matter["accuracy"] == "accuracy on pairs"


def test_a_reward_that_is_the_accuracy_is_not_said_twice(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4)
    rewrite(run, {}, both(accuracy=0.5, reward=0.5, length=1.0))
    assert "mean reward" not in titles(run)["rl"]
    rewrite(run, {}, both(accuracy=0.5, reward=0.75, length=1.0))
    assert "mean reward" in titles(run)["rl"]


def test_a_run_that_goes_on_shows_its_evaluations_so_far(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4, finished=False)
    rows = [
        {"step": 3, "stage": "sft", "stage_step": 3, "eval/accuracy": 0.25},
        {"step": 3, "stage": "rl", "stage_step": 0, "eval/accuracy": 0.375},
        {"step": 4, "stage": "rl", "stage_step": 1, "accuracy": 0.5},
        {"step": 5, "stage": "rl", "stage_step": 2, "eval/accuracy": 0.5},
        {"step": 6, "stage": "rl", "stage_step": 3, "eval/accuracy": 0.75},
    ]
    for row in rows[1:]:
        row |= {"eval/accuracy_low": 0.125, "eval/accuracy_high": 1.0}
    lines(run / "metrics.jsonl", rows)
    sft, rl = changed(load(run))
    assert [(m.kind, plain(m.value)) for m in sft.figures[0].marks] == [("after", "25.0 %")]
    assert [(m.kind, plain(m.value), plain(m.interval)) for m in rl.figures[0].marks] == [
        ("before", "37.5 %", "12.5 to 100.0 %"),
        ("after", "75.0 %", "12.5 to 100.0 %"),
    ]


def test_a_run_that_says_nothing_of_its_stages(tmp_path: Path) -> None:
    """As runs were recorded before: the figures of the last stage stand alone."""
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4)
    summary = json.loads((run / "summary.json").read_text())
    for stage in summary["stages"]:
        del stage["before"], stage["after"]
    (run / "summary.json").write_text(json.dumps(summary))
    sft, rl = of_stages(summary)
    assert sft == ("sft", []) and [one.name for one in rl[1]] == ["accuracy", "accuracy_greedy"]
    found = {one.stage: one for one in changed(load(run))}
    assert [m.interval != "" for m in found["rl"].figures[0].marks] == [True, True]
    (run / "metrics.jsonl").write_text("")
    assert list(titles(run)) == ["rl"]


def test_a_run_without_evaluations_has_no_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4, finished=False)
    (run / "metrics.jsonl").write_text("")
    assert changed(load(run)) == []
    assert 'id="changed"' not in write(run).read_text()


def test_the_table_of_a_run_in_control(tmp_path: Path) -> None:
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    (stage,) = changed(load(run))
    (figure,) = stage.figures
    assert figure.title == "mean return" and figure.ends == ("0", "300")
    assert [(m.value, m.interval) for m in figure.marks] == [
        ("20.0", "15.0 to 25.0"),
        ("200.0", "180.0 to 220.0"),
    ]


def test_the_axis_has_round_ends_around_what_was_measured() -> None:
    for values, ends in (
        ([-1231.4, -202.3], (-1500, 0)),
        ([-500.0], (-500, -495)),
        ([0.0], (0.0, 1e-9)),
        ([0.41, 0.43], (0.41, 0.43)),
    ):
        scale = around(values)
        assert (scale.low, scale.high) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ([0.365, 0.992], ["0.365", "0.992"]),
        ([11.98, 4.344], ["11.98", "4.34"]),
        ([100.6, 2.0], ["100.6", "2.0"]),
        ([2345.6, -0.4], ["2,346", "0"]),
        ([0.00123, 0.0], ["0.00123", "0.00000"]),
        ([1e-13], ["0.000"]),
        ([], []),
        ([1e12], ["1e+12"]),
    ],
)
def test_figures_of_a_row_have_the_same_digits(numbers: list[float], written: list[str]) -> None:
    assert [fixed(number, decimals(numbers)) for number in numbers] == written


@pytest.mark.parametrize("interval", [None, [], [0.1], [0.1, None], "ab", 1, [0.1, float("nan")]])
def test_what_is_no_interval_is_left_out(interval: object) -> None:
    (change,) = changes(
        {"metrics": {"a": 1, "b": None, "c": 10**400}, "intervals": {"a": interval}}, {}
    )
    assert change.name == "a" and change.before is not None and change.after is None
    assert (change.before.low, change.before.high) == (None, None)
