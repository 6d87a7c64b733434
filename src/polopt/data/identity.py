"""What makes two prompts the same, whatever form they come in: a few hashes of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from polopt.data.rows import Message, Messages, Text

INSTRUCTIONS = ("system", "developer")


def key(text: str) -> str:
    """Sixteen hexadecimal digits, equal for texts that differ in white space alone."""
    return blake2b(" ".join(text.split()).encode(), digest_size=8).hexdigest()


def keys(prompt: Text, completion: Text | None = None) -> tuple[str, ...]:
    """The keys of what a row asks: of its prompt, then of each later turn that the policy answers.

    Instructions (system messages) are left out, and one message of a user is its text alone. So a
    question is the same as text and as messages, with or without instructions. Two rows that share
    a key share a prompt.
    """
    if isinstance(prompt, str):
        return (key(prompt),)
    turns = () if completion is None or isinstance(completion, str) else completion
    asked = [prompt, *(_before(prompt, turns, i) for i in _answers(turns) if i)]
    return unique(key(_question(messages)) for messages in asked)


def unique(found: Iterable[str]) -> tuple[str, ...]:
    """Each of them once, in their order."""
    return tuple(dict.fromkeys(found))


def _answers(turns: Sequence[Message]) -> list[int]:
    return [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]


def _before(prompt: Messages, turns: Messages, place: int) -> Messages:
    return (*prompt, *turns[:place])


def _question(messages: Messages) -> str:
    asked = [message for message in messages if message["role"] not in INSTRUCTIONS]
    if len(asked) == 1:
        return asked[0]["content"]
    return json.dumps(asked, sort_keys=True)
