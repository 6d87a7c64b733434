"""benchmarks/learning.py: every row in one table, the committed results are what the page shows."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fenced import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import learning
import learning_plot
import majority

from polopt.algorithms import row
from polopt.api import trainings
from polopt.diagnose.compare.statistics import estimate
from trained_here import here

RESULTS: dict[str, Any] = learning.recorded()
MEASURED: list[dict[str, Any]] = RESULTS["rows"]


def command(*words: str, out: Path) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "benchmarks/learning.py", *words, "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# the task


def test_random_letters_earn_the_reward_half_of_the_time(tmp_path: Path) -> None:
    majority.write(tmp_path / "rows.jsonl", 3, 4000)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    marks = majority.majority([r["completion"] for r in rows], [r["prompt"] for r in rows])
    assert statistics.fmean(marks) == pytest.approx(0.5, abs=0.025)  # three standard errors


def test_what_earns_the_reward() -> None:
    answers = ["abc", "acc", "aaa", "aab", "wxa", "wwz", "ab", "abab", ""]
    prompts = ["1+", "1+", "1+", "1-", "1-", "1-", "1+", "1+", "1+"]
    assert majority.majority(answers, prompts) == [1, 0, 1, 0, 0, 1, 0, 0, 0]


def test_no_prompt_is_trained_on_and_asked(tmp_path: Path) -> None:
    for place in (0, 1):
        majority.write(tmp_path / f"{place}.jsonl", place, 5000)
    train, test = (
        {json.loads(line)["prompt"][:-1] for line in (tmp_path / f"{p}.jsonl").open()}
        for p in (0, 1)
    )
    assert len(train) == len(test) == 5000
    assert not train & test


# the table


def test_a_row_without_an_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = learning.row_of("grpo")
    monkeypatch.setitem(learning.METHODS, "newest", "a row that somebody added")
    monkeypatch.setattr(learning, "row_of", lambda _: grpo)
    monkeypatch.setattr(learning, "ROWS", dict.fromkeys(learning.METHODS.keys() - {"newest"}))
    with pytest.raises(SystemExit, match="differ: newest"):
        learning.online()


@pytest.mark.parametrize("name", [*learning.ROWS, learning.CONTROL])
def test_no_row_may_generate_more_than_the_budget(name: str) -> None:
    told = learning.settings(name)
    greedy = row(told["algorithm"]).values.get("credit.baseline") == "greedy"
    each = told["rollout.group_size"] + greedy
    rounds = 1 + told.get("rollout.resample_rounds", 0)
    most = told["run.steps"] * rounds * told["rollout.prompts_per_step"] * each
    assert most == learning.BUDGET


# the verdict


@pytest.mark.parametrize(
    ("after", "intervals", "improved", "reached"),
    [
        ([0.95, 0.91], [[[0.45, 0.55], [0.9, 0.97]], [[0.42, 0.52], [0.9, 0.96]]], True, True),
        ([0.95, 0.79], [[[0.45, 0.55], [0.9, 0.97]], [[0.42, 0.52], [0.7, 0.86]]], True, False),
        ([0.95, 0.91], [[[0.45, 0.55], [0.9, 0.97]], [[0.42, 0.52], [0.5, 0.96]]], False, True),
        ([0.95, None], [[[0.45, 0.55], [0.9, 0.97]], []], False, False),  # a run that failed
    ],
)
def test_every_seed_must_improve_and_arrive(
    after: list[float | None],
    intervals: list[list[list[float]]],
    improved: bool,
    reached: bool,
) -> None:
    found = learning.judged("grpo", {"accuracy_after": after, "intervals": intervals})
    assert (found["improved"], found["reached"]) == (improved, reached)


def test_a_control_improves_where_one_seed_does() -> None:
    one = {"accuracy_after": [0.9, 0.4], "intervals": [[[0.4, 0.5], [0.8, 0.9]], [[0, 1], [0, 1]]]}
    control = {"row": learning.CONTROL, "failed": [], **learning.judged(learning.CONTROL, one)}
    assert control["improved"] and not learning.passed(control)
    still = {**control, "improved": False}
    assert learning.passed(still) and not learning.passed({**still, "failed": ["killed"]})


# the committed results


def test_every_online_row_and_the_control_are_measured() -> None:
    assert [one["row"] for one in MEASURED] == [*learning.online(), learning.CONTROL]


@pytest.mark.parametrize("one", MEASURED, ids=[one["row"] for one in MEASURED])
def test_a_result_is_that_of_the_row_as_it_stands(one: dict[str, Any]) -> None:
    again = learning.judged(one["row"], one)
    assert {field: one[field] for field in again} == again
    assert one["settings"] == learning.fixed(one["row"])
    assert tuple(one["seeds"]) == learning.SEEDS and not one["failed"]
    assert one["accuracy_before"] == MEASURED[0]["accuracy_before"], "rows start alike"
    ends = [curve[-1] for curve in one["curves"]]
    assert ends == [[RESULTS["budget"]["value"], after] for after in one["accuracy_after"]]
    assert one["tokens"] >= RESULTS["budget"]["value"]
    score = estimate(one["accuracy_after"])
    assert one["score"]["value"] == pytest.approx(score["value"], abs=1e-4)
    assert one["score"]["interval"] == pytest.approx(score["interval"], abs=1e-4)
    assert learning.passed(one)


@pytest.mark.parametrize("name", [*learning.SEARCHES])
def test_with_the_values_in_use_the_seeds_of_the_search_arrived(name: str) -> None:
    (one,) = (found for found in RESULTS["searches"] if found["row"] == name)
    field, values = learning.SEARCHES[name]
    assert (one["field"], [*one["accuracy_after"]]) == (field, [*map(str, values)])
    assert learning.fixed(name).items() <= one["settings"].items()
    used = learning.settings(name)[field]
    reached = [after >= learning.BAR for after in one["accuracy_after"][str(used)]]
    assert sum(reached) == len(reached) - (name in learning.SLOW)


def test_the_same_results_give_the_same_plots(tmp_path: Path) -> None:
    for name in ("a", "b"):
        learning_plot.draw(MEASURED, bar=learning.BAR, images=tmp_path / name)
    for plot in ("learning.svg", "learning_curves.svg"):
        assert (tmp_path / "a" / plot).read_bytes() == (tmp_path / "b" / plot).read_bytes()


@pytest.mark.parametrize("plot", ["learning.svg", "learning_curves.svg"])
def test_the_plots_are_those_of_the_results(plot: str) -> None:
    text = (ROOT / "docs" / "img" / plot).read_text(encoding="utf-8")
    assert learning_plot.fingerprint(MEASURED) in text


# the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command with hardly any imitation, a few prompts, and trainings in this process."""
    monkeypatch.setattr(trainings, "child", here)
    monkeypatch.setitem(learning.SHARED, "evaluation.prompts", 64)
    return ["learning.py", "--steps", "1", "--json", "--out", str(tmp_path / "runs")]


def ended(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[object, list[dict[str, Any]]]:
    """Exit code and results."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        learning.main()
    output, errors = capfd.readouterr()
    assert output, errors
    return stopped.value.code, json.loads(output)


def test_the_command_prints_json_alone_and_fails_where_nothing_was_learnt(
    quick: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [*quick, "--rows", "grpo", "--seeds", "1"]
    code, (grpo, control) = ended(words, monkeypatch, capfd)
    assert code == 1
    assert (grpo["row"], control["row"], grpo["seeds"]) == ("grpo", learning.CONTROL, [1])
    assert grpo["score"]["interval"] is None and grpo["tokens"] > learning.STEP
    assert not grpo["improved"] and not grpo["reached"] and not grpo["failed"]
    runs = tmp_path / "runs"
    assert (runs / "compare.html").is_file()
    assert [path.name for path in (runs / "starts").iterdir()] == ["start-1"]  # of both
    monkeypatch.setattr(trainings, "child", None)  # nothing is trained again
    assert ended(words, monkeypatch, capfd) == (1, [grpo, control])


def test_the_command_searches_on_seeds_of_its_own(
    quick: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*quick, "--search", "--rows", "td_actor_critic", "--seeds", "11"]
    monkeypatch.setitem(learning.SEARCHES, "td_actor_critic", (learning.RATE, (1e-3, 2e-3)))
    code, (one,) = ended(words, monkeypatch, capfd)
    assert code == 0 and one["seeds"] == [11]
    assert [*one["accuracy_after"]] == ["0.001", "0.002"]


def test_a_directory_of_other_settings_is_one_line(
    quick: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*quick, "--rows", "grpo", "--seeds", "1"]
    ended(words, monkeypatch, capfd)
    monkeypatch.setitem(learning.ONLINE, "rollout.group_size", 4)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        learning.main()
    assert stopped.value.code == 2
    assert "grpo-1: made with another recipe (rollout.group_size: 8" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "gpro,sft"], "--rows: gpro, sft unknown; there are "),
        (
            ["--rows", "grpo", "--write"],
            "--write needs all rows, the whole budget and all seeds",
        ),
    ],
)
def test_unknown_rows_and_half_results_are_refused(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["learning.py", *words])
    with pytest.raises(SystemExit) as ended:
        learning.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_some_rows_learn_and_the_control_does_not(tmp_path: Path) -> None:
    words = ("--rows", "rejection_sampling,ppo,grpo", "--json")
    code, output, errors = command(*words, out=tmp_path / "runs")
    assert code == 0, errors
    assert [one["row"] for one in json.loads(output)] == [
        "rejection_sampling",
        "ppo",
        "grpo",
        "control",
    ]
