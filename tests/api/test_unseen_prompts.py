"""No stage trains on a prompt that the run is evaluated on, whatever form it has in its file."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import polopt
from letters import variety
from polopt.data import generated
from polopt.data.identity import key
from polopt.data.load import FAR
from polopt.errors import DataError
from polopt.models import read
from polopt.recipe import load as load_recipe
from polopt.record import recorded_prompts
from polopt.resolution import resolve
from polopt.rollout.pretraining import pretraining_batches
from polopt.rollout.text import tokeniser_of

COUNT = 40
SYSTEM = {"role": "system", "content": "Add."}


def question(i: int) -> str:
    return f"{i}+{i + 1}="


def user(i: int) -> dict[str, str]:
    return {"role": "user", "content": question(i)}


FORMS: dict[str, tuple[str, str, Callable[[int], Any]]] = {
    "text": ("rows.jsonl", "prompt", question),
    "messages": ("rows.jsonl", "prompt", lambda i: [user(i)]),
    "instructed": ("rows.jsonl", "prompt", lambda i: [SYSTEM, user(i)]),
    "other column": ("rows.jsonl", "problem", lambda i: f" {question(i)}\n"),
    "other file": ("rows.csv", "prompt", question),
}


def written(directory: Path, form: str, **columns: Callable[[int], Any]) -> dict[str, str]:
    """A file of the questions in a form, in an order of its own; the section ``data`` for it."""
    name, column, prompt = FORMS[form]
    order = random.Random(directory.name).sample(range(COUNT), COUNT)
    rows = [{column: prompt(i)} | {key: value(i) for key, value in columns.items()} for i in order]
    directory.mkdir()
    file = directory / name
    with file.open("w", newline="") as out:
        if file.suffix == ".csv":
            lines = csv.DictWriter(out, rows[0])
            lines.writeheader()
            lines.writerows(rows)
        else:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    return {"source": str(file), "prompt_field": column}


def answer(i: int) -> str:
    return str(2 * i + 1)


def recipe(directory: Path, form: str) -> dict[str, Any]:
    """Demonstrations in one file, and the prompts of GRPO in another: both of all questions."""
    demonstrations = written(directory / "warm", "text", completion=answer)
    return {
        "model": {"path": "builtin:tiny"},
        "rollout": {"max_new_tokens": 4},
        "evaluation": {"prompts": 8},
        "run": {"threads": 1, "directory": str(directory / "run")},
        "stage": {
            "warm": {
                "algorithm": "sft",
                "data": demonstrations,
                "update": {"batch_size": COUNT},  # every row in one step
                "run": {"steps": 2},
            },
            "rl": {
                "algorithm": "grpo",
                "data": written(directory / "rl", form),
                "rollout": {"prompts_per_step": COUNT, "group_size": 2},
                "run": {"steps": 1},
            },
        },
    }


@pytest.mark.parametrize("form", FORMS)
def test_what_one_stage_is_evaluated_on_no_other_trains_on(form: str, tmp_path: Path) -> None:
    told: list[str] = []
    run = polopt.train(
        recipe(tmp_path, form),
        reward=variety,
        observers=[lambda event: told.append(event.values.get("text", ""))],
    )
    found = recorded_prompts(run.directory)
    assert found is not None and found.held_out and len(found.trained) >= COUNT - 8
    assert found.held_out.isdisjoint(found.trained)
    assert "for another stage)" in "\n".join(told)
    samples = [json.loads(line) for line in (run.directory / "samples.jsonl").open()]
    asked = next(line for line in samples if line["stage"] == "rl" and line["kind"] == "train")
    assert (asked.get("messages") or [{}])[-1].get("role") == (
        "user" if form in ("messages", "instructed") else None
    )


def test_preferences_with_the_prompts_of_another_stage_are_left_out(tmp_path: Path) -> None:
    pairs = written(tmp_path / "pairs", "messages", chosen=answer, rejected=question)
    told: list[str] = []
    given = recipe(tmp_path, "instructed")
    given["stage"]["rl"]["model"] = {"path": "builtin:tiny"}
    given["stage"]["liked"] = {
        "algorithm": "dpo",
        "data": pairs,
        "update": {"batch_size": COUNT},
        "run": {"steps": 1},
    }
    run = polopt.train(
        given, reward=variety, observers=[lambda e: told.append(e.values.get("text", ""))]
    )
    found = recorded_prompts(run.directory)
    assert found is not None and found.held_out.isdisjoint(found.trained)
    (line,) = (line for line in told if line.startswith(pairs["source"]))
    assert "4 evaluation prompts (kept out of training: " in line and "for another stage)" in line


def test_weights_of_an_earlier_run_bring_what_they_were_trained_on(tmp_path: Path) -> None:
    """All of its prompts but those that it held out; the next run says so, and takes them over."""
    first = recipe(tmp_path, "text")
    del first["stage"]["rl"]
    polopt.train(first)
    before = recorded_prompts(tmp_path / "run")
    assert before is not None and len(before.trained) == COUNT - 4
    told: list[str] = []
    second = {
        "algorithm": "grpo",
        "model": {"path": str(tmp_path / "run" / "checkpoints" / "last")},
        "data": {"source": str(tmp_path / "rl" / "rows.jsonl")},
        "rollout": {"max_new_tokens": 4, "prompts_per_step": 2, "group_size": 2},
        "evaluation": {"prompts": 4},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "second")},
    }
    polopt.train(
        second, reward=variety, observers=[lambda e: told.append(e.values.get("message", ""))]
    )
    after = recorded_prompts(tmp_path / "second")
    assert after is not None and before.trained < after.trained
    overlap = len(after.held_out & before.trained)
    assert overlap and f"was trained on {overlap} of the 4 prompts that train is" in "\n".join(told)


def test_texts_that_hold_a_prompt_of_evaluation_are_told(tmp_path: Path) -> None:
    given = recipe(tmp_path, "messages")
    texts = [*(f"It says {question(i)}{answer(i)}." for i in range(COUNT)), "nothing of the sort"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    del given["stage"]["warm"]
    given["stage"]["rl"] |= {
        "pretraining": {"source": str(tmp_path / "texts.jsonl"), "coefficient": 1.0},
        "algorithm": "ppo",
    }
    given["stage"]["rl"]["rollout"]["group_size"] = 1
    told: list[str] = []
    polopt.train(
        given, reward=variety, observers=[lambda e: told.append(e.values.get("message", ""))]
    )
    # 1+2= stands in 11+12=, 21+22= and 31+32= as well
    (line,) = (line for line in told if line.startswith("pretraining.source"))
    assert "of 41 texts hold a prompt that the run is evaluated on" in line
    assert 4 <= int(line.split()[1]) < COUNT


def test_a_task_does_not_draw_what_another_stage_is_evaluated_on() -> None:
    drawn = generated("task:x", lambda split, index: {"prompt": f"{index % 7}"}, 2)
    avoid = drawn.train[3].keys
    again = generated("task:x", lambda split, index: {"prompt": f"{index % 7}"}, 2, avoid=avoid)
    assert again.train[2].prompt == "2"
    assert again.train[3].prompt == f"{(3 + FAR) % 7}" != "3"
    with pytest.raises(DataError, match="no row whose prompt is not one of evaluation"):
        _ = generated("task:x", lambda split, index: {"prompt": "3"}, 0, avoid=avoid).train[0]


def test_a_later_stage_is_compared_with_an_earlier_run_too(tmp_path: Path) -> None:
    first = recipe(tmp_path, "text")
    del first["stage"]["rl"]
    polopt.train(first)
    second = recipe_again(tmp_path)
    heard: list[str] = []
    polopt.train(
        second, reward=variety, observers=[lambda e: heard.append(e.values.get("message", ""))]
    )
    assert any("prompts that rl is evaluated on" in text for text in heard)


def recipe_again(directory: Path) -> dict[str, Any]:
    """From those weights, demonstrations of something else, and then the same prompts."""
    other = directory / "other.jsonl"
    lines = ({"prompt": f"say {i}", "completion": str(i)} for i in range(20))
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "model": {"path": str(directory / "run" / "checkpoints" / "last")},
        "rollout": {"max_new_tokens": 4, "prompts_per_step": 2, "group_size": 2},
        "evaluation": {"prompts": 4},
        "run": {"threads": 1, "directory": str(directory / "second")},
        "stage": {
            "warm": {"algorithm": "sft", "data": {"source": str(other)}, "run": {"steps": 1}},
            "rl": {
                "algorithm": "grpo",
                "data": {"source": str(directory / "rl" / "rows.jsonl")},
                "run": {"steps": 1},
            },
        },
    }


def test_text_of_a_task_has_no_prompt_of_evaluation() -> None:
    tables = {
        "algorithm": "ppo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:chain_sum"},
        "pretraining": {"source": "task:chain_sum", "coefficient": 1.0, "batch_size": 4},
    }
    stage = resolve(load_recipe(tables), own_reward=True).stages[0]
    tokeniser = tokeniser_of(stage, read("builtin:tiny"))

    def texts(*avoid: str) -> list[str]:
        batch = pretraining_batches(stage, tokeniser, lambda _: None, avoid)(0)
        return [str(tokeniser.tokenizer.decode(g.samples[0].tokens)) for g in batch.groups]

    first = texts()
    question = first[0].removeprefix("<bos>").partition("=")[0] + "="
    again = texts(key(question))
    assert again[1:] == first[1:] and question not in again[0]
