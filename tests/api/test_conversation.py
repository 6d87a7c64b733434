"""A conversation: the template, the history, and an answer that is heard while it grows."""

from __future__ import annotations

from typing import Any

import pytest

from polopt.api.conversation import Conversation
from polopt.api.policy import Policy
from polopt.errors import DataError, ModelError, RecipeError, with_hints
from polopt.models import LanguageModel
from polopt.models.builtin import tokenizer
from polopt.rollout.engines import LocalEngine
from polopt.rollout.usage import Usage
from polopt.types import Sampling
from random_models import TOKENIZER, always

pytestmark = pytest.mark.usefixtures("one_thread")

A, B, NUL, END = TOKENIZER.convert_tokens_to_ids(["a", "b", "Ā", "<eos>"])
EURO = TOKENIZER("€")["input_ids"]  # three bytes


def talk(*tokens: int, **settings: Any) -> Conversation:
    """With a policy that says one of the tokens, whatever is said to it."""
    usage = Usage(True, "prompt", Sampling(max_new_tokens=6, stop=("ab",)))
    return Conversation(Policy(always(*tokens), usage), **settings)


def said(conversation: Conversation, turn: str) -> str:
    pieces: list[str] = []
    conversation.say(turn, pieces.append)
    return "".join(pieces)


def test_the_template_and_the_history_reach_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    submit = LocalEngine.submit
    conversation = talk(A)
    monkeypatch.setattr(
        LocalEngine,
        "submit",
        lambda engine, some: (asked.extend(r.prompt.tokens for r in some), submit(engine, some)),
    )
    assert said(conversation, "one") == said(conversation, "two") == "aaaaaa"
    history = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "aaaaaa"},
        {"role": "user", "content": "two"},
    ]
    assert conversation.messages[:3] == history
    whole = TOKENIZER.apply_chat_template(history, add_generation_prompt=True, return_dict=True)
    assert asked[1] == tuple(whole["input_ids"])
    conversation.clear()
    said(conversation, "one")
    assert asked[2] == asked[0] and len(conversation.messages) == 2


def test_an_answer_is_heard_token_by_token_and_ends_as_in_training() -> None:
    pieces: list[str] = []
    talk(A).say("x", pieces.append)
    assert [piece for piece in pieces if piece] == ["a"] * 6
    drawn = talk(A, B, temperature=1.0, seed=3)
    answers = [said(drawn, "x") for _ in range(8)]
    assert len(set(answers)) > 1  # the draws of a turn are its own
    assert all(answer.find("ab") in (-1, len(answer) - 2) for answer in answers)
    assert answers == [said(again, "x") for again in [talk(A, B, temperature=1.0, seed=3)] * 8]
    assert said(talk(A, max_new_tokens=2), "x") == "aa"


def test_a_character_is_heard_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation, pieces = talk(A), list[str]()
    policy, so_far = conversation._policy, [A, *EURO, B, EURO[0]]

    def poll(_: LocalEngine, heard: Any) -> Any:
        for end in range(1, len(so_far) + 1):
            heard(so_far[:end])
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "poll", poll)
    with pytest.raises(KeyboardInterrupt):
        conversation.say("x", pieces.append)
    assert pieces == ["a", "€", "b"]
    assert policy.text(so_far) == "a€b�"


def test_what_an_interrupt_leaves_is_remembered() -> None:
    conversation, heard = talk(A), list[str]()

    def hear(piece: str) -> None:
        heard.append(piece)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.say("one", hear)
    assert [m["content"] for m in conversation.messages] == ["one", "aa"]
    assert said(conversation, "two") == "aaaaaa"
    assert [m["content"] for m in conversation.messages] == ["one", "aa", "two", "aaaaaa"]


@pytest.mark.parametrize(("token", "answer"), [(END, ""), (NUL, "\0" * 6)])
def test_whatever_the_policy_said_the_conversation_goes_on(token: int, answer: str) -> None:
    """An empty answer and a NUL are refused in data, not in a history."""
    conversation = talk(token)
    assert [said(conversation, "x") for _ in range(2)] == [answer, answer]
    assert len(conversation.messages) == 4


def test_what_cannot_be_answered_is_one_line_and_is_not_remembered() -> None:
    conversation = talk(A)
    said(conversation, "one")
    with pytest.raises(DataError) as caught:
        said(conversation, "x" * 250)
    assert with_hints(caught.value) == (
        "the conversation: has 294 tokens; at most 255; /clear begins a new one"
    )
    with pytest.raises(DataError) as caught:
        said(conversation, "<eos>")
    assert with_hints(caught.value) == (
        'the conversation: contains the special token "<eos>"; text without such tokens'
    )
    assert [m["content"] for m in conversation.messages] == ["one", "aaaaaa"]


def test_it_needs_a_template_and_settings_that_are_allowed() -> None:
    bare, model = tokenizer(), always(A)
    bare.chat_template = None
    usage = Usage(False, "prompt", Sampling())
    with pytest.raises(ModelError, match="the tokeniser has no chat template, so it has no conv"):
        Conversation(Policy(LanguageModel(model.model, bare, model.stop_ids), usage))
    with pytest.raises(RecipeError, match="max_new_tokens: 0 is not allowed; an integer >= 1"):
        talk(A, max_new_tokens=0)
