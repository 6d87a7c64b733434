"""Which prompts are the same, in whatever form they come."""

from __future__ import annotations

from typing import Any

import pytest

from polopt.data.identity import holding, keys

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
    assert holding(texts, ["3 + 8 =", "12 - 5 ="]) == 2
    assert holding(texts, []) == 0
