"""Evaluation of whole files, and what it says of prompts that training has seen."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt import api
from polopt.cli import main
from polopt.errors import DataError, RewardError, RunDirectoryError
from runs import BRIEF, ROOT

ROWS = 60
EVAL = ROOT / "examples" / "eval"
REWARD = """
def near(completions, answer):
    return [float(text.startswith(right)) for text, right in zip(completions, answer)]
"""


def rows(file: Path, numbers: range) -> Path:
    lines = ({"prompt": f"{i}?", "answer": str(i % 3), "completion": str(i % 3)} for i in numbers)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a file: six prompts are held out, and of the others every one is trained on."""
    directory = tmp_path_factory.mktemp("of_file")
    (directory / "own.py").write_text(REWARD)
    recipe: dict[str, Any] = {
        "algorithm": "sft",
        "model": {"path": "builtin:tiny"},
        "data": {"source": str(rows(directory / "rows.jsonl", range(ROWS)))},
        "rollout": {"max_new_tokens": 4},
        "reward": {"file": str(directory / "own.py"), "function": "near", "is_accuracy": True},
        "update": {"batch_size": ROWS - 6},
        "run": {"steps": 1, "threads": 1, "directory": str(directory / "run")},
    }
    polopt.train(recipe)
    return directory / "run"


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"run.directory": str(tmp_path_factory.mktemp("of_task") / "run")}
    return polopt.train(BRIEF, flags=flags).directory


def counts(found: list[Any]) -> dict[str, int]:
    return {one.seen: one.count for one in found}


@pytest.mark.parametrize("flags", [{}, {"run.seed": 2}, {"run.seed": 3}])
def test_what_was_trained_on_is_not_called_unseen(of_file: Path, flags: dict[str, Any]) -> None:
    """Another seed holds out other rows, which this run has trained on."""
    assert counts(polopt.evaluate(of_file)) == {"held out": 6}
    (held_out,) = (one for one in polopt.evaluate(of_file) if one.seen == "held out")
    kept = {line["prompt"] for line in held_out.answers}
    found = polopt.evaluate(of_file, flags=flags)
    assert sum(one.count for one in found) == 6
    for one in found:
        prompts = {line["prompt"] for line in one.answers}
        assert prompts <= kept if one.seen == "held out" else prompts.isdisjoint(kept)


def test_every_row_of_a_file_is_evaluated_on_and_marked(of_file: Path, tmp_path: Path) -> None:
    """54 rows were trained on; the six that were held out and the ten new ones were not."""
    both = [
        rows(tmp_path / "all.jsonl", range(ROWS + 10)),
        rows(tmp_path / "new.jsonl", range(99, 102)),
    ]
    found = polopt.evaluate(of_file, data=both, k=2)
    assert [(one.data, one.seen, one.count) for one in found] == [
        (str(both[0]), "held out", 16),
        (str(both[0]), "trained", 54),
        (str(both[1]), "held out", 3),
    ]
    assert {"accuracy", "pass@2", "majority@2", "reward", "length", "truncated"} <= found[
        0
    ].intervals.keys()
    assert len(found[0].answers) == 16 * 3  # two are sampled, one is greedy


def test_of_copied_weights_nothing_is_known(of_file: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(of_file / "checkpoints" / "last", tmp_path / "weights")
    data = rows(tmp_path / "rows.jsonl", range(5))
    reward = {"file": str(of_file.parent / "own.py"), "function": "near"}
    with pytest.raises(polopt.errors.RecipeError, match="name a reward"):
        polopt.evaluate(copied, data=[data])
    found = polopt.evaluate(copied, data=[data], flags={"rewards": [reward]})
    assert counts(found) == {"unknown": 5}


def test_an_earlier_checkpoint_has_seen_less(of_task: Path, tmp_path: Path) -> None:
    """What the first step trained on, and what only a later one did."""
    lines = [json.loads(line) for line in (of_task / "prompts.jsonl").read_text().splitlines()]
    keys = {line["step"]: set(line["trained"]) for line in lines if "trained" in line}
    first, last = (api.prompts_of(str(of_task / "checkpoints" / n)) for n in ("step_3", "last"))
    assert first is not None and last is not None
    assert first.trained == keys[1] | keys[2] | keys[3]
    assert last.trained == set().union(*keys.values()) > first.trained


def test_a_step_of_a_run_is_evaluated_as_its_checkpoint_is(of_task: Path, tmp_path: Path) -> None:
    """Of five steps of grpo after three of sft: both are kept that end a stage."""
    found, named = (polopt.evaluate(f"{of_task}@{name}") for name in (3, "sft"))
    by_path = polopt.evaluate(of_task / "checkpoints" / "step_3")
    assert [one.entry for one in found] == [one.entry for one in by_path]
    assert [one.entry for one in named] == [one.entry for one in by_path]
    assert found[0].answers == by_path[0].answers != polopt.evaluate(of_task)[0].answers
    copy = shutil.copytree(of_task, tmp_path / "run", symlinks=True)
    directory = polopt.write_evaluation(found, f"{copy}@3")
    assert directory.parent == copy / "evaluations"
    assert json.loads((directory / "figures.json").read_text())["evaluated"] == f"{copy}@3"


@pytest.mark.parametrize("call", [polopt.evaluate, polopt.load, api.converse])
def test_a_step_without_a_checkpoint_gets_those_that_there_are(
    of_task: Path, call: Callable[[str], Any]
) -> None:
    names = "3, 5, 7, 8, best, last, rl, sft"
    wanted = re.escape(f"{of_task}@4: the run has no such checkpoint; there are: {names}")
    with pytest.raises(polopt.errors.RunDirectoryError, match=f"^{wanted}$"):
        call(f"{of_task}@4")
    with pytest.raises(polopt.errors.ModelError, match="no such directory"):
        call(f"{of_task}-elsewhere/a@4")


def test_every_command_that_asks_a_policy_takes_a_step(
    of_task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words in (["generate", "@sft", "1+2-3="], ["eval", "@3", "--output", str(tmp_path / "e")]):
        name, step, *rest = words
        assert main([name, f"{of_task}{step}", *rest]) == 0, capsys.readouterr().err
        shutil.rmtree(tmp_path / "e", ignore_errors=True)
        assert main([name, f"{of_task}@9", *rest]) == 2
        assert "has no such checkpoint; there are: 3," in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat", f"{of_task}@sft"]) == 0
    assert main(["chat", f"{of_task}@9"]) == 2


def test_a_verifier_judges_files_with_its_columns(of_task: Path, tmp_path: Path) -> None:
    (easy,) = polopt.evaluate(of_task, data=[EVAL / "easy.jsonl"])
    assert easy.count == 40 and "accuracy" in easy.metrics
    lacking = tmp_path / "lacking.jsonl"
    lacking.write_text('{"prompt": "1+2-3="}\n')
    with pytest.raises(DataError) as error:
        polopt.evaluate(of_task, data=[lacking])
    assert str(error.value) == (
        f"{lacking}:1: field 'answer': is missing; the verifier of task:chain_sum reads it"
    )


def test_a_reward_whose_columns_are_not_there_is_told_before_anything_is_sampled(
    of_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tmp_path / "lacking.jsonl"
    lacking.write_text('{"prompt": "1?"}\n')
    monkeypatch.setattr("polopt.api.examine.answers", None)
    with pytest.raises(RewardError, match="parameter 'answer' is no column of the data"):
        polopt.evaluate(of_file, data=[lacking])


def test_the_command_prints_a_table_and_keeps_the_answers(
    of_task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [EVAL / "easy.jsonl", EVAL / "long.jsonl"]
    words = [word for file in files for word in ("--data", str(file))]
    assert main(["eval", str(of_task), *words, "--k", "2"]) == 0
    printed = capsys.readouterr().out
    assert f"{files[0]} (held out)" in printed and "majority@2" in printed
    directory = of_task / "evaluations" / "eval-1"
    lines = (directory / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 80 * 3
    assert "Content-Security-Policy" in (directory / "report.html").read_text()
    table = json.loads((directory / "figures.json").read_text())["evaluations"]
    assert [entry["n"] for entry in table] == [40, 40]
    assert main(["eval", str(of_task), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"][1]["data"] == str(files[1])
    assert (of_task / "evaluations" / "eval-2").is_dir()


def test_a_directory_that_is_there_is_not_written_over(of_task: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="--output"):
        api.write_evaluation([], of_task, tmp_path)


def test_a_run_with_bad_rows_is_asked_what_it_held_out(tmp_path: Path) -> None:
    """Rows without a completion are no demonstrations, but they have prompts."""
    file = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": f"{i}?", "answer": "1", "completion": "" if i % 4 == 0 else "1"}
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "own.py").write_text(REWARD)
    data = {"source": str(file), "on_bad_row": "skip", "max_bad_share": 0.5}
    reward = {"file": str(tmp_path / "own.py"), "function": "near"}
    run = polopt.train(recipe_of(tmp_path, data, reward)).directory
    (found,) = polopt.evaluate(run)
    assert (found.seen, found.count) == ("held out", 3)


def test_conversations_are_asked_up_to_the_first_answer(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    talks = [
        [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "1"}]
        for i in range(20)
    ]
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    (tmp_path / "own.py").write_text(
        "def length(completions): return [len(c) for c in completions]"
    )
    data = {"source": str(file), "prompt_field": "messages"}
    reward = {"file": str(tmp_path / "own.py"), "function": "length"}
    run = polopt.train(recipe_of(tmp_path, data, reward)).directory
    assert counts(polopt.evaluate(run)) == {"held out": 2}
    assert sum(counts(polopt.evaluate(run, data=[file])).values()) == 20


def recipe_of(directory: Path, data: dict[str, Any], reward: dict[str, Any]) -> dict[str, Any]:
    return {
        "algorithm": "sft",
        "model": {"path": "builtin:tiny"},
        "data": data,
        "rollout": {"max_new_tokens": 4},
        "reward": reward,
        "update": {"batch_size": 8},
        "run": {"steps": 1, "threads": 1, "directory": str(directory / "run")},
    }


def test_what_began_with_copied_weights_is_unknown(of_file: Path, tmp_path: Path) -> None:
    """Their record is elsewhere; what was not trained on here may have been trained on there."""
    copied = shutil.copytree(of_file / "checkpoints" / "last", tmp_path / "weights")
    reward = {"file": str(of_file.parent / "own.py"), "function": "near"}
    recipe = recipe_of(tmp_path, {"source": str(rows(tmp_path / "rows.jsonl", range(40)))}, reward)
    heard: list[str] = []
    run = polopt.train(
        recipe | {"model": {"path": str(copied)}},
        observers=[lambda event: heard.append(event.values.get("message", ""))],
    ).directory
    assert any("there is no whole record of its prompts" in text for text in heard)
    assert counts(polopt.evaluate(run)) == {"unknown": 4}
