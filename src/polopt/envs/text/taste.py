"""A synthetic preference that is known exactly, so that learning it can be measured.

A prompt such as ``tops+`` asks for letters, any number of any letters. The score of a response is
its share of vowels after ``+``, of consonants after ``-``: ``bedae`` has 3/5 after ``+``, 2/5 after
``-``. Demonstrations are random letters. Rankings are by score, exactly or with the noise of
Bradley and Terry (1952; Plackett 1975 for more than two).

Lengths vary on purpose. If all responses had one length, both of a pair would end at the same
place, no pair would say anything about ending early, and DPO would drift towards it.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from polopt.envs.text.interface import Split, split_of
from polopt.errors import DataError
from polopt.recipe import Section, shown

LIKED = {"+": "aeiou", "-": "bcdfg"}
LETTERS = "".join(LIKED.values())


class Parameters(Section):
    """Size of the responses and of the rankings, and noise of the labels."""

    length: int = Field(default=6, ge=2, le=64, description="letters in the longest response")
    candidates: int = Field(default=2, ge=2, le=9, description="responses in a ranking")
    opposed: float = Field(
        default=0.0, ge=0, le=1, description="share of prompts after which consonants are liked"
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=64,
        description="difference in score that is preferred with odds of e; 0: labels never err",
    )


@dataclass(frozen=True)
class Taste:
    """``tops+`` likes ``aeoe``, ``tops-`` likes ``bcfdg``."""

    seed: int
    parameters: Parameters = field(default_factory=Parameters)
    is_accuracy: bool = field(default=False, init=False)  # a share of letters: the more the better
    reads: tuple[str, ...] = field(default=("prompt",), init=False)

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "taste"

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """A prompt, a demonstration, and responses with ranks that are not all the same.

        ``answer`` is one of the responses with the highest score, 1.
        """
        source = random.Random(f"{self.name}/{self.seed}/{split}/{index}")
        while True:
            sign = "-" if source.random() < self.parameters.opposed else "+"
            prompt = "".join(source.choices(string.ascii_lowercase, k=4)) + sign
            if split_of(prompt) == split:
                break
        liked = LIKED[prompt[-1]]
        completions, ranks = self._ranking(source, liked)
        return {
            "prompt": prompt,
            "answer": self._letters(source, liked),
            "completion": self._letters(source, LETTERS),
            "completions": completions,
            "ranks": ranks,
        }

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """The share of the preferred letters in a completion; 0.0 for an empty one.

        Raises:
            DataError: a prompt that does not say which letters it likes.
        """
        text, prompt = completion.strip(), row["prompt"]
        if not isinstance(prompt, str) or prompt[-1:] not in LIKED:
            raise DataError(
                f"field 'prompt': {shown(prompt)} is not allowed; "
                "task:taste needs + or - at its end"
            )
        return _share(text, LIKED[prompt[-1]]) if text else 0.0

    def extract(self, completion: str) -> str:
        """All of it, but for whitespace around it."""
        return completion.strip()

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """The exact score as a metric, whatever reward is trained on."""
        return {"planted_score": self.score(completion, row)}

    def _letters(self, source: random.Random, letters: str) -> str:
        return "".join(source.choices(letters, k=source.randint(2, self.parameters.length)))

    def _ranking(self, source: random.Random, liked: str) -> tuple[list[str], list[int]]:
        """Responses in random order, and the rank of each: 0 is the best, ties share one."""
        while True:
            texts = [self._letters(source, LETTERS) for _ in range(self.parameters.candidates)]
            scores = [_share(text, liked) for text in texts]
            if len(set(texts)) == len(texts) and len(set(scores)) > 1:
                return texts, _ranks([self._worth(source, score) for score in scores])

    def _worth(self, source: random.Random, score: float) -> float:
        """The score; with Gumbel noise added, rankings follow the model of Plackett and Luce."""
        noise = self.parameters.noise
        return score - noise * math.log(source.expovariate(1.0) or 1.0) if noise else score


def _share(text: str, liked: str) -> float:
    return sum(letter in liked for letter in text) / len(text)


def _ranks(worths: Sequence[float]) -> list[int]:
    """The rank of each: how many others are worth more."""
    return [sum(other > worth for other in worths) for worth in worths]
