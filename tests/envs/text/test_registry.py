from __future__ import annotations

import pytest

from polopt.envs.text import TASKS, load
from polopt.errors import RecipeError


def test_reverse():
    task = load("task:reverse", {"length": 5}, seed=1)
    row = task.row("train", 0)
    assert len(row["answer"]) == 5 and row["prompt"] == row["answer"][::-1] + "="
    assert task.score(row["completion"] + "\n", row) == 1.0
    assert task.score(row["completion"] + "x", row) == 0.0
    assert task.describe(row["completion"], row) == {}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_knows_its_name(name):
    assert load(name, {}, 0).name == name


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("chainsum", {}, 'data.source: "chainsum" is no built-in task; did you mean chain_sum?'),
        (
            "task:x",
            {},
            'data.source: "task:x" is no built-in task; allowed: chain_sum, reverse, taste',
        ),
        ("chain_sum", {"term": 3}, "data.parameters.term: unknown; did you mean terms?"),
        ("reverse", {"zz": 3}, "data.parameters.zz: unknown; allowed: length"),
        (
            "chain_sum",
            {"terms": 2},
            "data.parameters.terms: 2 is not allowed; an integer from 3 to 64",
        ),
        (
            "chain_sum",
            {"terms": "5"},
            'data.parameters.terms: "5" is not allowed; an integer from 3 to 64',
        ),
        (
            "chain_sum",
            {"terms": True},
            "data.parameters.terms: true is not allowed; an integer from 3 to 64",
        ),
        (
            "chain_sum",
            {"modulus": 11},
            "data.parameters.modulus: 11 is not allowed; an integer from 2 to 10",
        ),
        (
            "chain_sum",
            {"direct_share": 1.5},
            "data.parameters.direct_share: 1.5 is not allowed; a number from 0 to 1",
        ),
        (
            "chain_sum",
            {"direct_share": float("nan")},
            "data.parameters.direct_share: nan is not allowed; a number from 0 to 1",
        ),
        (
            "reverse",
            {"length": 0},
            "data.parameters.length: 0 is not allowed; an integer from 2 to 64",
        ),
    ],
)
def test_wrong_names_and_parameters_are_one_line(name, parameters, message):
    with pytest.raises(RecipeError) as error:
        load(name, parameters, 0)
    assert str(error.value) == message
