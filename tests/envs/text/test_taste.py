"""The planted preference: scores by hand, rankings in its order, noise of the stated strength."""

from __future__ import annotations

import math
import string

import pytest

from polopt.envs.text import load
from polopt.envs.text.interface import split_of
from polopt.envs.text.taste import LETTERS, Taste

PLUS, MINUS = {"prompt": "tops+"}, {"prompt": "tops-"}


def rows(split="train", count=400, seed=1, **parameters):
    task = load("taste", parameters, seed)
    return task, [task.row(split, index) for index in range(count)]


@pytest.mark.parametrize(
    ("text", "plus", "minus"),
    [
        ("bedae", 3 / 5, 2 / 5),
        ("aeiou", 1.0, 0.0),
        ("bcdfgbcd\n", 0.0, 1.0),
        ("a", 1.0, 0.0),
        ("aaaaaaaabbbb", 8 / 12, 4 / 12),
        ("aexz", 1 / 2, 0.0),
        ("AE", 0.0, 0.0),
        (" ", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_scores_by_hand(text, plus, minus):
    task = load("task:taste", {}, seed=0)
    assert task.score(text, PLUS) == plus and task.score(text, MINUS) == minus
    assert task.describe(text, PLUS) == {"planted_score": plus}


def test_rows():
    task, found = rows(length=6, candidates=4, opposed=0.5)
    lengths = set()
    for row in found:
        assert split_of(row["prompt"]) == "train"
        assert row["prompt"][-1] in "+-" and set(row["prompt"][:4]) <= set(string.ascii_lowercase)
        assert task.score(row["answer"], row) == 1.0
        texts = row["completions"]
        assert len(texts) == len(set(texts)) == len(row["ranks"]) == 4
        assert all(set(text) <= set(LETTERS) for text in texts)
        lengths |= {len(text) for text in [*texts, row["answer"], row["completion"]]}
    assert lengths == {2, 3, 4, 5, 6}
    assert sum(row["prompt"].endswith("+") for row in found) == pytest.approx(200, abs=40)
    assert all(row["prompt"].endswith("+") for row in rows()[1])


def test_ranks_are_the_order_of_the_scores():
    task, found = rows(candidates=5)
    ties = 0
    for row in found:
        scores = [task.score(text, row) for text in row["completions"]]
        assert row["ranks"] == [sum(other > score for other in scores) for score in scores]
        assert len(set(row["ranks"])) > 1
        ties += len(set(row["ranks"])) < 5
    assert ties > 0


def test_demonstrations_show_no_liking():
    task, found = rows(count=2000, opposed=0.5)
    mean = sum(task.score(row["completion"], row) for row in found) / len(found)
    assert mean == pytest.approx(0.5, abs=0.03)


def test_noise_has_the_odds_of_bradley_and_terry():
    """Among pairs that differ by a quarter the better one wins with σ(.25/noise)."""
    task, found = rows(count=8000, noise=0.25)
    differences = [
        (first - second) * (1 if row["ranks"][0] < row["ranks"][1] else -1)
        for row in found
        for first, second in [[task.score(text, row) for text in row["completions"]]]
    ]
    right, wrong = differences.count(0.25), differences.count(-0.25)
    expected = 1 / (1 + math.exp(-1))
    deviation = math.sqrt(expected * (1 - expected) / (right + wrong))
    assert right / (right + wrong) == pytest.approx(expected, abs=4 * deviation)
    assert deviation < 0.02


def test_rows_are_a_pure_function_and_splits_are_disjoint():
    _, train = rows()
    _, again = rows()
    _, other = rows(seed=2)
    _, unseen = rows("evaluation")
    assert train == again and train != other
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in unseen)
    assert Taste(1).row("train", 7) == train[7]
