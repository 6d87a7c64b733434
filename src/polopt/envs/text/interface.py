"""The interface of text tasks, and the split of prompts between training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from polopt.errors import DataError
from polopt.recipe import shown

Split = Literal["train", "evaluation"]
EVALUATION_SHARE = 4  # one prompt in four: few wasted draws for either split, also of slow tasks


class TextTask(Protocol):
    """A source of rows and the verifier of their completions."""

    @property
    def name(self) -> str:
        """Its name in a recipe, such as ``chain_sum``."""
        ...

    @property
    def is_accuracy(self) -> bool:
        """Whether a score of 1.0 is a right answer; otherwise scores say how good one is."""
        ...

    @property
    def reads(self) -> Sequence[str]:
        """The columns of a row that the verifier reads."""
        ...

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """The row of an index: ``prompt``, ``answer``, and ``completion``, a demonstration.

        A task of preferences adds ``completions``, several responses, and ``ranks``, lower is
        better.

        A pure function of the seed of the task, ``split`` and ``index``, for every index >= 0.
        No prompt occurs in both splits, whatever the seed.
        """
        ...

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """The reward of a completion: 1.0 where it is right, else less."""
        ...

    def extract(self, completion: str) -> str:
        """The answer in a completion, without the way to it: those that agree are the same."""
        ...

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """Further metrics of one completion by name; None where one does not apply to it."""
        ...


def right_answer(row: Mapping[str, Any]) -> str:
    """The answer of a row without whitespace around it; a number is the text of it.

    Raises:
        DataError: it is neither text nor a number.
    """
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        kind, prompt = "null" if answer is None else shown(answer), shown(row.get("prompt"))
        raise DataError(
            f"field 'answer': {kind} is not allowed; text or a number (prompt {prompt})"
        )
    return str(answer).strip()


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to: a property of its text alone.

    So the splits are disjoint without any list of prompts, between seeds and between runs too.
    """
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return "train" if int.from_bytes(digest) % EVALUATION_SHARE else "evaluation"
