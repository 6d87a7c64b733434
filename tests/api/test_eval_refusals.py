"""What an evaluation takes of the recipe of a run, and what it refuses in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polopt.algorithms import ROWS, row
from polopt.api.domains import of_evaluation
from polopt.recipe import load
from polopt.resolution import resolve

IN_TEXT = [name for name in ROWS if "text" in row(name).domains]


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
