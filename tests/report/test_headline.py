"""The head of the page says what happened, and no more than that."""

import json
from pathlib import Path
from typing import Any

import pytest
from sample_run import lines, write_run

from polopt.report import load
from polopt.report.headline import Headline, headline


def head(directory: Path, **summary: Any) -> Headline:
    run = write_run(directory / "run", sft_steps=3, rl_steps=4)
    path = run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **summary}))
    return headline(load(run))


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def test_a_run_that_learned(tmp_path: Path) -> None:
    found = head(tmp_path)
    assert plain(found.sentence) == (
        "On 512 prompts that training never saw, the share of right answers rose from 48.0 % "
        "to 97.3 %."
    )
    assert found.detail == "3 steps of sft, then 4 steps of grpo."
    assert found.change == pytest.approx(0.4922)
    assert found.seconds == pytest.approx(98.6)
    assert found.stages[0].ended == "reached its goal, worked_accuracy 0.96 >= 0.95"


def test_a_reward_model_answers_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4)
    config = json.loads((run / "config.json").read_text())
    roles = {"column": "roles", "choice": "reward_model"}
    config["stages"][-1]["row"] = [roles]
    (run / "config.json").write_text(json.dumps(config))
    said = headline(load(run)).sentence
    assert "the share of pairs in the right order rose from" in said


def test_overlapping_intervals_are_not_called_learning(tmp_path: Path) -> None:
    found = head(tmp_path, accuracy_after=0.5, accuracy_after_interval=[0.45, 0.55])
    assert "may be chance" in found.sentence


def test_a_run_that_got_worse(tmp_path: Path) -> None:
    found = head(tmp_path, accuracy_after=0.1, accuracy_after_interval=[0.08, 0.13])
    assert "fell from" in found.sentence and "chance" not in found.sentence


def test_a_run_that_changed_nothing(tmp_path: Path) -> None:
    found = head(tmp_path, accuracy_after=0.4805)
    assert plain(found.sentence).endswith("stayed at 48.0 %.")


def test_a_run_without_accuracy(tmp_path: Path) -> None:
    found = head(tmp_path, accuracy_before=None, accuracy_after=None)
    assert found.sentence == "The run finished after 7 steps."
    assert found.measured == [] and found.change is None


def test_shares_of_time_add_up(tmp_path: Path) -> None:
    parts = head(tmp_path).parts
    assert parts[0][0] == "update"
    assert sum(share for *_, share in parts) == pytest.approx(1.0)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=3, rl_steps=4, finished=False)
    found = headline(load(run))
    assert not found.finished
    assert plain(found.sentence) == (
        "This run has not finished: 7 steps so far, the last one in stage rl. "
        "At step 7, the share of right answers on unseen prompts was 97.8 %."
    )
    assert [(one.kind, one.title) for one in found.measured] == [
        ("before", "Before"),
        ("after", "Step 7"),
    ]
    assert found.measured[0].value == 0.48 and found.measured[0].greedy == 0.5
    assert [(stage.steps, stage.ended) for stage in found.stages] == [
        (3, "done"),
        (4, "not finished"),
    ]
    assert {part for part, *_ in found.parts} == {
        "rollout",
        "reward",
        "update",
        "evaluate",
        "checkpoint",
    }


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    (run / "metrics.jsonl").write_text("")
    found = headline(load(run))
    assert found.sentence == "This run has not finished; it has not recorded a step yet."
    assert [stage.ended for stage in found.stages] == ["not begun", "not begun"]
    assert found.seconds is None and found.parts == []


def started(directory: Path, stages: list[str], rows: list[dict[str, Any]]) -> Headline:
    """The head of a run that goes on and has recorded these lines."""
    run = write_run(directory / "run", sft_steps=1, rl_steps=1, finished=False)
    config = {"stages": [{"name": name, "settings": {}} for name in stages]}
    (run / "config.json").write_text(json.dumps(config))
    lines(run / "metrics.jsonl", rows)
    return headline(load(run))


EVALUATED = {"eval/accuracy": 0.25, "eval/accuracy_low": 0.125, "eval/accuracy_high": 0.5}


def test_an_evaluation_before_training_is_not_the_present_one(tmp_path: Path) -> None:
    before = {"step": 0, "stage": "rl", "stage_step": 0, **EVALUATED}
    later = {"step": 1, "stage": "rl", "stage_step": 1, "accuracy": 0.75}
    found = started(tmp_path, ["rl"], [before, later])
    assert plain(found.sentence) == (
        "This run has not finished: 1 step so far. "
        "Before training, the share of right answers on unseen prompts was 25.0 %."
    )
    (one,) = found.measured
    assert (one.title, one.value, one.low, one.high) == ("Before", 0.25, 0.125, 0.5)
    assert found.change is None


def test_a_run_that_has_only_been_evaluated(tmp_path: Path) -> None:
    before = {"step": 0, "stage": "rl", "stage_step": 0, **EVALUATED}
    assert plain(started(tmp_path, ["rl"], [before]).sentence) == (
        "This run has not finished; it has not recorded a step yet. "
        "Before training, the share of right answers on unseen prompts was 25.0 %."
    )


def test_an_evaluation_says_of_which_stage_it_is(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "stage": "sft", "stage_step": 1, **EVALUATED},
        {"step": 2, "stage": "rl", "stage_step": 1},
    ]
    found = started(tmp_path / "one", ["sft", "rl"], rows)
    assert "At step 1 in stage sft, the share" in found.sentence
    assert found.measured == []  # what is compared is the last stage
    rows[1:] = [{"step": 1, "stage": "rl", "stage_step": 0, **EVALUATED}]
    found = started(tmp_path / "two", ["sft", "rl"], rows)
    assert "Before stage rl began, the share" in found.sentence
    assert [one.title for one in found.measured] == ["Before"]
