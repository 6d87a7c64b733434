from __future__ import annotations

import itertools
import re

import pytest

from polopt.envs.text import load
from polopt.envs.text.interface import split_of


def rows(task, split, count=400):
    return [task.row(split, index) for index in range(count)]


def signed_sum(problem):
    return sum(map(int, re.findall(r"[+-]?\d", problem)))


def test_worked_demonstration_by_hand():
    # 3+8 = 11 = 1, 1-9 = -8 = 2, 2+1 = 3, 3-2 = 1 (mod 10)
    task = load("chain_sum", {"direct_share": 0.0}, seed=0)
    assert task._steps([3, 8, 9, 1, 2], list("+-+-")) == ["3+8=1", "1-9=2", "2+1=3", "3-2=1"]


def test_every_demonstration_is_right_and_every_step_is_true():
    task = load("chain_sum", {"terms": 5, "modulus": 10}, seed=3)
    for row in rows(task, "train"):
        assert int(row["answer"]) == signed_sum(row["prompt"]) % 10
        assert task.score(row["completion"], row) == 1.0
        working, _, answer = row["completion"].rpartition(">")
        assert answer == row["answer"]
        steps = working.split(";") if working else []
        assert len(steps) in (0, 4)
        for step, following in itertools.pairwise(steps):
            assert following[0] == step[-1]
        for step in steps:
            left, result = step.split("=")
            assert len(result) == 1 and signed_sum(left) % 10 == int(result)
        if steps:
            operands = "".join(step[1:3] for step in steps)
            assert steps[0][0] + operands + "=" == row["prompt"]
            assert steps[-1][-1] == answer


@pytest.mark.parametrize(("share", "low", "high"), [(0.6, 0.55, 0.65), (0.0, 0, 0), (1.0, 1, 1)])
def test_share_of_direct_demonstrations(share, low, high):
    task = load("chain_sum", {"direct_share": share}, seed=1)
    direct = [row["completion"].startswith(">") for row in rows(task, "train", 2000)]
    assert low <= sum(direct) / len(direct) <= high


def test_parameters_shape_the_problem():
    row = load("chain_sum", {"terms": 7, "modulus": 3}, seed=1).row("train", 0)
    digits = row["prompt"][::2]
    assert len(row["prompt"]) == 14 and set(digits) <= set("012") and row["answer"] in "012"


@pytest.mark.parametrize("name", ["chain_sum", "reverse"])
def test_rows_are_a_pure_function_and_splits_are_disjoint(name):
    first, again, other = load(name, {}, 1), load(name, {}, 1), load(name, {}, 2)
    assert [again.row("train", i) for i in (5, 3, 4)] == [first.row("train", i) for i in (5, 3, 4)]
    assert rows(first, "train", 20) != rows(other, "train", 20)
    assert first.row("train", 2**40)["prompt"]
    train = {row["prompt"] for task in (first, other) for row in rows(task, "train", 3000)}
    evaluation = {row["prompt"] for task in (first, other) for row in rows(task, "evaluation", 512)}
    assert not train & evaluation
    assert len({row["prompt"] for row in rows(first, "evaluation", 512)}) > 480


def test_one_prompt_in_four_is_for_evaluation():
    prompts = [f"{i}+{j}=" for i in range(100) for j in range(100)]
    share = sum(split_of(prompt) == "evaluation" for prompt in prompts) / len(prompts)
    assert 0.23 < share < 0.27


@pytest.mark.parametrize("modulus", range(2, 11))
def test_the_smallest_problems_still_have_both_splits(modulus):
    task = load("chain_sum", {"terms": 3, "modulus": modulus}, seed=0)
    assert task.row("train", 0)["prompt"] != task.row("evaluation", 0)["prompt"]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (">6", 1.0),
        ("3+8=1;1-9=2>6", 1.0),
        ("> 6\n", 1.0),
        ("nonsense>1>6", 1.0),  # the last mark counts
        ("6", 0.0),
        ("", 0.0),
        (">", 0.0),
        (">16", 0.0),
        (">6>1", 0.0),
        (">6 or 7", 0.0),
        (">06", 0.0),
        (">٦", 0.0),  # an Arabic six
    ],
)
def test_score_is_exact(completion, score):
    task = load("chain_sum", {}, 0)
    assert task.score(completion, {"prompt": "", "answer": "6"}) == score


def test_describe_tells_the_two_ways_apart():
    task, row = load("chain_sum", {}, 0), {"answer": "6"}
    assert task.describe("5+1=6>6", row) == {
        "worked": 1.0, "worked_accuracy": 1.0, "direct_accuracy": None,
    }  # fmt: skip
    assert task.describe(">5", row) == {
        "worked": 0.0, "worked_accuracy": None, "direct_accuracy": 0.0,
    }  # fmt: skip
