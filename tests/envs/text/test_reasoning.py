from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest

from polopt.envs.text import load
from polopt.envs.text.interface import split_of
from polopt.errors import MissingExtraError, RecipeError


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(MissingExtraError) as error:
        load("reasoning-gym:countdown", {}, 0)
    assert str(error.value) == (
        "data.source: reasoning-gym:countdown needs the package reasoning-gym: "
        'pip install "polopt[tasks]"'
    )


@pytest.fixture
def installed():
    return pytest.importorskip("reasoning_gym")


@pytest.mark.usefixtures("installed")
class TestWithThePackage:
    def test_rows_are_pure_and_splits_disjoint(self):
        task, again = (load("reasoning-gym:chain_sum", {"max_terms": 3}, 1) for _ in range(2))
        train = [task.row("train", i) for i in range(150)]
        evaluation = [task.row("evaluation", i) for i in range(150)]
        assert again.row("train", 149) == train[149] and again.row("train", 0) == train[0]
        assert {split_of(row["prompt"]) for row in train} == {"train"}
        assert {split_of(row["prompt"]) for row in evaluation} == {"evaluation"}
        assert len({row["prompt"] for row in train}) > 100
        other = load("reasoning-gym:chain_sum", {"max_terms": 3}, 2)
        assert other.row("train", 0) != train[0]

    def test_the_score_is_exact(self):
        task = load("reasoning-gym:chain_sum", {}, 1)
        row = task.row("train", 0)
        assert task.name == "reasoning-gym:chain_sum"
        assert task.score(f" {row['completion']}\n", row) == 1.0
        assert task.score(f"The answer is {row['answer']}", row) == 0.0
        assert task.score("", row) == 0.0
        assert task.score(f"I think <answer>{row['answer']}</answer> it is", row) == 1.0
        assert task.score(f"<answer>The answer is {row['answer']}</answer>", row) == 0.0
        assert task.score(f"{row['answer']} <answer>1</answer>", row) == 0.0

    def test_a_data_set_without_answers_has_rows_to_judge_but_no_demonstration(self):
        task = load("reasoning-gym:rush_hour", {}, 1)
        row = task.row("train", 0)
        assert row.keys() == {"prompt", "metadata"}
        assert task.score("A+1", row) == 0.0
        assert json.loads(json.dumps(row)) == row
        assert task.describe("", row) == {}

    @pytest.mark.parametrize("name", ["pool_matrix", "list_functions"])
    def test_data_sets_that_draw_from_global_generators_stay_pure_and_alone(self, name):
        task = load(f"reasoning-gym:{name}", {}, 1)
        random.seed(5), np.random.seed(5)
        first = [task.row("train", i) for i in range(20)]
        here = (random.random(), np.random.rand())
        random.seed(5), np.random.seed(5)
        assert here == (random.random(), np.random.rand())
        random.seed(77), np.random.seed(77)
        assert [task.row("train", i) for i in reversed(range(20))] == first[::-1]

    @pytest.mark.parametrize(
        ("name", "parameters", "message"),
        [
            ("countdwn", {}, "did you mean countdown?"),
            ("propositional_logic", {}, "its scorer gives full marks to a premise"),
            (
                "chain_sum",
                {"min_term": 3},
                "data.parameters.min_term: unknown; did you mean min_te",
            ),
            ("chain_sum", {"seed": 3}, "data.parameters.seed: unknown"),
            ("chain_sum", {"min_terms": 9, "max_terms": 2}, "refuses max_terms = 2, min_terms = 9"),
            ("chain_sum", {"min_terms": "x"}, 'refuses min_terms = "x"'),
            ("composite", {}, "a mixture; its data sets are sources of their own"),
        ],
    )
    def test_what_cannot_be_used_is_one_line(self, name, parameters, message):
        with pytest.raises(RecipeError) as error:
            load(f"reasoning-gym:{name}", parameters, 0)
        assert message in str(error.value) and "\n" not in str(error.value)
