"""The head of the page says what happened, and no more than that."""

import json
from pathlib import Path
from typing import Any

import pytest
from sample_run import write_run

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
        "On unseen prompts 97.8 % are right."
    )
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
