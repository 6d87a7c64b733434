"""A parameter that no column fills is told before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.errors import RewardError
from polopt.rewards.arguments import check_columns, declared

TABLES: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "run": {"steps": 1, "threads": 1},
    "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 2},
}
FILE = """
def score(completions, answr):
    return [0.0 for _ in completions]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data, and no model that could be loaded."""

    def no_model(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    for name in ("polopt.assembly.inputs.load", "polopt.rollout.text.read"):
        monkeypatch.setattr(name, no_model)
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}+1=", "answer": f"{i + 1}"} for i in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bare.jsonl").write_text('{"prompt": "1+1="}\n')
    (tmp_path / "reward.py").write_text(FILE)
    return tmp_path


def train(function: Callable[..., Any] | None = None, **tables: Any) -> str:
    with pytest.raises(RewardError) as caught:
        polopt.train({"algorithm": "grpo", **TABLES, **tables}, reward=function)
    assert not list(Path("runs").iterdir())
    return str(caught.value)


def test_of_a_file(here: Path) -> None:
    reward = {"file": "reward.py", "function": "score"}
    said = train(data={"source": "sums.jsonl"}, reward=reward)
    assert said == (
        "reward 'score': parameter 'answr' is no column of the data; did you mean answer? (there "
        "are: answer, completion_ids, completions, prompt, prompt_ids, prompts)"
    )
    assert "'answr' is no column" in train(data={"source": "task:chain_sum"}, reward=reward)


def test_of_a_function_from_python(here: Path) -> None:
    def score(completions: list[str], answer: list[str], wright: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    assert "'wright' is no column of the data (there" in train(score, data={"source": "sums.jsonl"})

    def positional(completions: list[str], /) -> list[float]:
        return [0.0 for _ in completions]

    assert "positional-only" in train(positional, data={"source": "sums.jsonl"})


def test_of_the_rows_that_are_evaluated_on(here: Path) -> None:
    def score(completions: list[str], answer: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    data = {"source": "sums.jsonl", "evaluation_source": "bare.jsonl"}
    assert "'answer' is no column of the data (there" in train(score, data=data)


def test_of_a_later_stage(here: Path) -> None:
    stages = {
        "sft": {"algorithm": "sft", "data": {"source": "task:chain_sum"}},
        "rl": {
            "algorithm": "grpo",
            "data": {"source": "sums.jsonl"},
            "reward": {"file": "reward.py", "function": "score"},
        },
    }
    with pytest.raises(RewardError, match="did you mean answer"):
        polopt.train({"model": TABLES["model"], "run": TABLES["run"], "stage": stages})


def test_rows_are_read_until_every_column_was_seen() -> None:
    read = list[int]()

    def rows() -> Any:
        for number, columns in enumerate(({"prompt": "1"}, {"a": 1}, {"b": 1}, {"c": 1})):
            read.append(number)
            yield columns

    def asks(prompts: Any, a: Any, b: Any, z: Any = None) -> None: ...

    check_columns("r", declared("r", asks), rows())
    assert read == [0, 1, 2]
    check_columns("r", declared("r", lambda completions, **columns: None), rows())
    assert read == [0, 1, 2]
    with pytest.raises(RewardError, match=r"reward 'r': parameter 'z' is no column of the data \("):
        check_columns("r", declared("r", lambda z: None), rows())
