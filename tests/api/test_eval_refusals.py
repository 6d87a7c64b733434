"""What an evaluation takes of the recipe of a run, and what it refuses in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import variety
from polopt.algorithms import ROWS, row
from polopt.api.domains import of_evaluation
from polopt.api.recorded import located
from polopt.cli import main
from polopt.envs.text import load as load_task
from polopt.errors import DataError, RecipeError
from polopt.recipe import load
from polopt.resolution import resolve
from runs import BRIEF, ROOT

EASY = ROOT / "examples" / "eval" / "easy.jsonl"

IN_TEXT = [name for name in ROWS if "text" in row(name).domains]
NAMED = {"reward.verifier": "math", "reward.answer_field": "answer"}


def of_text(name: str, source: str) -> dict[str, Any]:
    """The smallest recipe of a row; preferences have no reward."""
    return {"algorithm": name, "model": {"path": "builtin:tiny"}, "data": {"source": source}}


@pytest.mark.parametrize("name", IN_TEXT)
@pytest.mark.parametrize("source", ["task:chain_sum", "task:taste", "rows.jsonl"])
def test_the_recipe_of_every_row_can_be_evaluated(name: str, source: str) -> None:
    """Whatever field a row decides, an evaluation states none that has no effect in it."""
    recipe = of_text(name, source)
    stage = resolve(load(recipe), own_reward=True).stages[-1]
    resolve(load(of_evaluation(stage, Path())), own_reward=True)


def test_columns_of_preferences_are_left_out() -> None:
    """A policy is evaluated on prompts, whatever it has learnt from."""
    recipe = of_text("dpo", "rows.jsonl")
    recipe["data"] |= {"chosen_field": "good", "prompt_field": "ask"}
    stage = resolve(load(recipe)).stages[-1]
    data = of_evaluation(stage, Path())["data"]
    assert data["prompt_field"] == "ask" and "chosen_field" not in data


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"run.directory": str(tmp_path_factory.mktemp("of_task") / "run")}
    return polopt.train(BRIEF, flags=flags).directory


@pytest.fixture(scope="module")
def of_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a file, whose reward came from Python."""
    directory = tmp_path_factory.mktemp("of_python")
    source = written(directory / "rows.jsonl", [{"prompt": f"{i}?"} for i in range(12)])
    recipe = of_text("grpo", str(source)) | {
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
        "evaluation": {"prompts": 2},
        "run": {"steps": 1, "threads": 1, "directory": str(directory / "run")},
    }
    return polopt.train(recipe, reward=variety).directory


def written(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def refused(run: Path, kind: type[Exception] = RecipeError, **asked: Any) -> str:
    with pytest.raises(kind) as error:
        polopt.evaluate(run, **asked)
    return str(error.value)


def test_a_copy_outside_of_checkpoints_is_no_checkpoint(of_task: Path) -> None:
    """Two levels below a run, with a manifest, and of no known step."""
    last = of_task / "checkpoints" / "last"
    for copy in (of_task / "exported" / "final", of_task / "checkpoints" / "mine"):
        shutil.copytree(last.resolve(), copy)
        assert located(copy) is None
        (found,) = polopt.evaluate(copy, data=[EASY], flags=NAMED)
        assert found.seen == "unknown"
        shutil.rmtree(copy)
    assert located(last) == (of_task.resolve(), last)


def test_taste_says_which_prompts_it_can_judge() -> None:
    task = load_task("task:taste", {}, 0)
    with pytest.raises(DataError) as error:
        task.score("aei", {"prompt": "tops"})
    assert str(error.value) == (
        "field 'prompt': \"tops\" is not allowed; task:taste needs + or - at its end"
    )


def test_no_answers_are_refused(of_task: Path) -> None:
    assert refused(of_task, k=0) == "k: 0 is not allowed; an integer >= 1"


@pytest.mark.parametrize("name", ["chain_sum", "reverse"])
@pytest.mark.parametrize("answer", ["2", " 2", 2])
def test_a_number_and_its_text_are_the_same_answer(name: str, answer: object) -> None:
    task = load_task(f"task:{name}", {}, 0)
    right, wrong = (">2", ">3") if name == "chain_sum" else ("2", "3")
    assert task.score(right, {"answer": answer}) == 1.0
    assert task.score(wrong, {"answer": answer}) == 0.0


@pytest.mark.parametrize(("answer", "said"), [(None, "null"), (True, "true")])
def test_an_answer_of_another_type_is_refused(answer: object, said: str) -> None:
    with pytest.raises(DataError) as error:
        load_task("task:chain_sum", {}, 0).score(">2", {"prompt": "1+1=", "answer": answer})
    assert str(error.value) == (
        f"field 'answer': {said} is not allowed; text or a number (prompt \"1+1=\")"
    )


def test_a_reward_model_gives_one_score_and_takes_no_reward(tmp_path: Path) -> None:
    recipe = of_text("reward_model", "task:taste") | {
        "update": {"batch_size": 2},
        "evaluation": {"prompts": 4},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")},
    }
    run = polopt.train(recipe).directory
    assert refused(run, k=3) == (
        "--k: 3 is not allowed of a reward model, which compares the responses of the data; 1"
    )
    assert "has no effect on a reward model" in refused(run, reward=variety)
    (found,) = polopt.evaluate(run)
    assert "accuracy" in found.metrics


def test_a_reward_from_python_is_asked_for_again(of_python: Path) -> None:
    assert refused(of_python) == (
        "reward: the run's came from Python; polopt.evaluate(..., reward=), or name one"
    )
    (found,) = polopt.evaluate(of_python, reward=variety)
    assert found.seen == "held out" and found.metrics["reward"] > 0


def test_a_reward_by_flags_takes_the_place_of_the_runs(of_python: Path, tmp_path: Path) -> None:
    """The second evaluation is of a run whose own reward stands in a list."""
    (tmp_path / "own.py").write_text(
        "def none(completions):\n    return [0.5] * len(completions)\n"
    )
    flags = {"reward.file": str(tmp_path / "own.py"), "reward.function": "none"}
    (found,) = polopt.evaluate(of_python, flags=flags)
    assert found.metrics["reward"] == 0.5
    config = json.loads((of_python / "config.json").read_text())
    config["recipe"]["rewards"] = [{"verifier": "math", "answer_field": "prompt"}]
    copied = shutil.copytree(of_python, tmp_path / "run", symlinks=True)
    (copied / "config.json").write_text(json.dumps(config))
    (found,) = polopt.evaluate(copied, flags=flags)
    assert found.metrics["reward"] == 0.5


def test_a_directory_that_is_there_is_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("polopt.api.evaluate", None)
    assert main(["eval", "runs/any", "--output", str(tmp_path)]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_file_that_a_task_cannot_judge_is_one_line(of_task: Path, tmp_path: Path) -> None:
    """The same through the judge of an evaluation, which names nothing else."""
    null = written(tmp_path / "null.jsonl", [{"prompt": "1+1+1=", "answer": None}])
    assert refused(of_task, DataError, data=[null]).startswith("field 'answer': null")
    weights = of_task / "checkpoints" / "last"
    copied = shutil.copytree(weights.resolve(), tmp_path / "weights")
    plain = written(tmp_path / "plain.jsonl", [{"prompt": "1+2"}])
    flags = {"data.source": "task:taste", "reward.verifier": "task"}
    assert refused(copied, DataError, data=[plain], flags=flags).startswith("field 'prompt'")


@pytest.mark.parametrize("flags", [{"data.prompt_field": "ask"}, ["--data.prompt_field", "ask"]])
def test_files_for_a_task_may_hold_their_prompts_in_another_column(
    of_task: Path, tmp_path: Path, flags: Any
) -> None:
    asked = written(tmp_path / "asked.jsonl", [{"ask": "1+1+1=", "answer": 3}])
    (found,) = polopt.evaluate(of_task, data=[asked], flags=flags)
    assert [line["prompt"] for line in found.answers] == ["1+1+1="] * 2
    assert "has no effect" in refused(of_task, flags=flags)  # without a file


def test_the_column_of_the_prompts_is_checked(of_task: Path) -> None:
    flags = {"data.prompt_field": ""}
    assert refused(of_task, data=[EASY], flags=flags).startswith('data.prompt_field: "" is not')
