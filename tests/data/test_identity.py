"""Which prompts are the same, in whatever form they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polopt.data import load_rows
from polopt.data.identity import holding, keys, question
from polopt.recipe import Data

USER = {"role": "user", "content": "3 + 8 ="}
SYSTEM = {"role": "system", "content": "Answer with a number."}
ANSWER = {"role": "assistant", "content": "11"}


@pytest.mark.parametrize(
    "prompt",
    ["3 + 8 =", " 3  + 8 =\n", (USER,), (SYSTEM, USER), ({**SYSTEM, "role": "developer"}, USER)],
)
def test_a_question_is_the_same_in_every_form(prompt: Any) -> None:
    assert keys(prompt) == keys("3 + 8 =")


@pytest.mark.parametrize(
    "prompt", ["3 + 9 =", ({**USER, "content": "3 + 8 = ?"},), (USER, ANSWER, USER)]
)
def test_another_question_is_another_one(prompt: Any) -> None:
    assert set(keys(prompt)).isdisjoint(keys("3 + 8 ="))


def test_a_conversation_asks_at_every_turn_that_it_answers() -> None:
    more = {"role": "user", "content": "and 2 more?"}
    found = keys((SYSTEM, USER), (ANSWER, more, ANSWER))
    assert found == (*keys((USER,)), *keys((USER, ANSWER, more)))


def test_texts_that_hold_a_question_are_counted() -> None:
    texts = ["Ask:\n3 +\t8 = and so on", "3 + 8", "nothing", "what is 12 - 5 = ?", ""]
    assert holding(texts, [question("3 + 8 ="), question("12 - 5 =")]) == 2
    assert holding(texts, []) == 0


def test_a_conversation_is_found_where_all_that_was_said_is() -> None:
    more = {"role": "user", "content": "and 2 more?"}
    asked = question((SYSTEM, USER, ANSWER, more))
    assert asked == ("3 + 8 =", "11", "and 2 more?")
    texts = ["User: 3 + 8 =\nAssistant: 11\nUser: and 2 more?", "3 + 8 = 11", "and 2 more? 11"]
    assert holding(texts, [asked]) == 1


def test_white_space_counts_in_no_turn() -> None:
    one = (USER, ANSWER, {"role": "user", "content": "more"})
    other = (USER, ANSWER, {"role": "user", "content": " more\n"})
    assert keys(one) == keys(other)


def test_later_turns_of_a_preference_are_asked_too(tmp_path: Path) -> None:
    """They are in both responses, and what they answer is trained on."""
    more = {"role": "user", "content": "more"}
    rows = [
        {
            "chosen": [{"role": "user", "content": f"{i}"}, ANSWER, more, ANSWER],
            "rejected": [
                {"role": "user", "content": f"{i}"},
                {**ANSWER, "content": "12"},
                more,
                ANSWER,
            ],
        }
        for i in range(2)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = load_rows(Data(source=str(file)), 1, 1, wanted="pairs").train
    first = row.columns["chosen"][0]
    assert row.keys == (
        *keys((first,)),
        *keys((first, ANSWER, more)),
        *keys((first, {**ANSWER, "content": "12"}, more)),
    )
