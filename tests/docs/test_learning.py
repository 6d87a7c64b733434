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

RESULTS: dict[str, list[dict[str, Any]]] = learning.recorded()
MEASURED = RESULTS["rows"]


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "benchmarks/learning.py", *words],
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


# the statistics


def test_the_interval_of_the_mean_is_students() -> None:
    # mean 0.8, s = 0.1, t(0.975, 2) = 4.3027: 0.8 ± 4.3027 * 0.1 / sqrt(3) = 0.8 ± 0.2484
    assert learning.interval([0.7, 0.8, 0.9]) == pytest.approx((0.5516, 1.0), abs=1e-4)
    assert learning.interval([0.5, 0.5, 0.6]) == pytest.approx((0.3899, 0.6768), abs=1e-4)
    assert learning.interval([0.5]) is None


@pytest.mark.parametrize(
    ("after", "intervals", "responses", "improved", "reached"),
    [
        ([0.95, 0.91], [[0.9, 0.97], [0.9, 0.96]], learning.BUDGET, True, True),
        ([0.95, 0.79], [[0.9, 0.97], [0.7, 0.86]], learning.BUDGET, True, False),  # below the bar
        ([0.95, 0.91], [[0.9, 0.97], [0.5, 0.96]], learning.BUDGET, False, True),  # overlaps
        ([0.95, 0.91], [[0.9, 0.97], [0.9, 0.96]], learning.BUDGET + 1, True, False),  # too dear
    ],
)
def test_every_seed_must_improve_and_arrive_within_the_budget(
    after: list[float], intervals: list[list[float]], responses: int, improved: bool, reached: bool
) -> None:
    found = learning.judged(
        "grpo",
        {
            "accuracy_after": after,
            "before_intervals": [[0.45, 0.55], [0.42, 0.52]],
            "after_intervals": intervals,
            "responses": [responses, 100],
        },
    )
    assert (found["improved"], found["reached"]) == (improved, reached)


# the committed results


def test_every_online_row_and_the_control_are_measured() -> None:
    assert [one["row"] for one in MEASURED] == [*learning.online(), learning.CONTROL]


@pytest.mark.parametrize("one", MEASURED, ids=[one["row"] for one in MEASURED])
def test_a_result_is_that_of_the_row_as_it_stands(one: dict[str, Any]) -> None:
    again = learning.judged(one["row"], one)
    assert {field: one[field] for field in again} == again
    assert one["settings"] == learning.circumstances(one["row"])["settings"]
    assert tuple(one["seeds"]) == learning.SEEDS
    assert one["accuracy_before"] == MEASURED[0]["accuracy_before"], "rows start alike"
    assert [curve[-1][1] for curve in one["curves"]] == pytest.approx(
        one["accuracy_after"], abs=1e-4
    )
    assert learning.passed(one)


@pytest.mark.parametrize("name", [*learning.SEARCHES])
def test_with_the_values_in_use_every_seed_of_the_search_arrived(name: str) -> None:
    (one,) = (found for found in RESULTS["searches"] if found["row"] == name)
    field, values = learning.SEARCHES[name]
    assert (one["field"], [*one["accuracy_after"]]) == (field, [*map(str, values)])
    assert one["settings"] == learning.circumstances(name)["settings"]
    used = learning.settings(name)[field]
    assert min(one["accuracy_after"][str(used)]) >= learning.BAR


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


def test_the_command_prints_json_alone_and_fails_where_nothing_was_learnt(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a policy that has hardly imitated, judged on a few prompts: a sixth of the seconds."""
    monkeypatch.setitem(learning.WARM, "run.steps", 5)
    monkeypatch.setitem(learning.SHARED, "evaluation.prompts", 64)
    words = "learning.py --rows grpo --seeds 1 --steps 1 --json"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as ended:
        learning.main()
    output, errors = capfd.readouterr()
    assert ended.value.code == 1, errors
    (one,) = json.loads(output)
    assert (one["row"], one["seeds"], one["responses"]) == ("grpo", [1], [learning.STEP])
    assert one["interval"] is None
    assert not one["improved"]
    assert not one["reached"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "gpro,sft"], "--rows: gpro, sft unknown; there are "),
        (
            ["--rows", "grpo", "--seeds", "1", "--write"],
            "--write needs the whole budget and all seeds",
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
def test_some_rows_learn_and_the_control_does_not() -> None:
    code, output, errors = command("--rows", "grpo,ppo,rejection_sampling,control", "--json")
    assert code == 0, errors
    assert [one["row"] for one in json.loads(output)] == [
        "grpo",
        "ppo",
        "rejection_sampling",
        "control",
    ]
