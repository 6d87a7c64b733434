"""What makes two prompts the same, whatever form they come in: a few hashes of each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from hashlib import blake2b

from polopt.data.rows import Text

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
    asked = [prompt]
    if not isinstance(prompt, str) and not isinstance(completion, str | None):
        later = [i for i, turn in enumerate(completion) if turn["role"] == "assistant" and i]
        asked += [(*prompt, *completion[:i]) for i in later]
    return unique(key(question(one)) for one in asked)


def question(prompt: Text) -> str:
    """What a prompt asks, without instructions."""
    if isinstance(prompt, str):
        return prompt
    asked = [message for message in prompt if message["role"] not in INSTRUCTIONS]
    if len(asked) == 1:
        return asked[0]["content"]
    return json.dumps(asked, sort_keys=True)


def holding(texts: Iterable[str], questions: Collection[str]) -> int:
    """How many of the texts hold one of the questions, whatever the white space.

    Every place of a text is looked up by as many characters as the shortest question has.
    """
    wanted = [" ".join(question.split()) for question in questions]
    if not wanted:
        return 0
    width = min(map(len, wanted))
    by_start = defaultdict[str, list[str]](list)
    for one in wanted:
        by_start[one[:width]].append(one)

    def holds(text: str) -> bool:
        return any(
            text.startswith(one, i)
            for i in range(len(text) - width + 1)
            for one in by_start.get(text[i : i + width], ())
        )

    return sum(holds(" ".join(text.split())) for text in texts)


def unique(found: Iterable[str]) -> tuple[str, ...]:
    """Each of them once, in their order."""
    return tuple(dict.fromkeys(found))
