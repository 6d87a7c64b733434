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
    return blake2b(_plain(text).encode(), digest_size=8).hexdigest()


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
    return unique(key(_asked(one)) for one in asked)


def question(prompt: Text) -> tuple[str, ...]:
    """What a prompt asks, message by message, without instructions and stray white space."""
    if isinstance(prompt, str):
        return (_plain(prompt),)
    return tuple(_plain(m["content"]) for m in prompt if m["role"] not in INSTRUCTIONS)


def holding(texts: Iterable[str], questions: Collection[tuple[str, ...]]) -> int:
    """How many of the texts hold all messages of one of the questions, whatever the white space.

    Every place of a text is looked up by as many characters as the shortest first message has.
    """
    wanted = [parts for parts in questions if parts and parts[0]]
    if not wanted:
        return 0
    width = min(len(parts[0]) for parts in wanted)
    by_start = defaultdict[str, list[tuple[str, ...]]](list)
    for parts in wanted:
        by_start[parts[0][:width]].append(parts)

    def holds(text: str) -> bool:
        return any(
            text.startswith(parts[0], i) and all(part in text for part in parts)
            for i in range(len(text) - width + 1)
            for parts in by_start.get(text[i : i + width], ())
        )

    return sum(holds(_plain(text)) for text in texts)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _asked(prompt: Text) -> str:
    """One text for what a prompt asks: its words, or whose turn it was and what was said."""
    if isinstance(prompt, str):
        return prompt
    turns = [m for m in prompt if m["role"] not in INSTRUCTIONS]
    if len(turns) == 1:
        return turns[0]["content"]
    return json.dumps([{**m, "content": _plain(m["content"])} for m in turns], sort_keys=True)


def unique(found: Iterable[str]) -> tuple[str, ...]:
    """Each of them once, in their order."""
    return tuple(dict.fromkeys(found))
