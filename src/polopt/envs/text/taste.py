"""A planted preference: what is liked is known exactly, so that learning it can be measured.

A prompt such as ``tops+`` asks for letters, and any do. After ``+`` vowels are liked, after ``-``
consonants: of ``aebecuda`` five in eight after ``+``, three after ``-``. Demonstrations are letters
drawn without any liking. Rankings put those first that are liked more, exactly, or with the noise
of Bradley and Terry (1952; Plackett 1975 for more than two).
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
from polopt.recipe import Section

LIKED = {"+": "aeiou", "-": "bcdfg"}
LETTERS = "".join(LIKED.values())


class Parameters(Section):
    """Size of the responses and of the rankings, and how far labels can be trusted."""

    length: int = Field(default=8, ge=2, le=64, description="letters in a response")
    candidates: int = Field(default=2, ge=2, le=9, description="responses in a ranking")
    noise: float = Field(
        default=0.0,
        ge=0,
        le=64,
        description="letters of difference that are preferred with odds of e; 0: never in error",
    )


@dataclass(frozen=True)
class Taste:
    """``tops+`` likes ``aeoeuaie``, ``tops-`` likes ``bcfdgbbd``."""

    seed: int
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "taste"

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """A prompt, a demonstration, and responses with ranks that are not all the same.

        ``answer`` is one of the responses that are liked best of all.
        """
        source = random.Random(f"{self.name}/{self.seed}/{split}/{index}")
        while True:
            prompt = "".join(source.choices(string.ascii_lowercase, k=4)) + source.choice("+-")
            if split_of(prompt) == split:
                break
        liked = LIKED[prompt[-1]]
        completions, ranks = self._ranking(source, liked)
        return {
            "prompt": prompt,
            "answer": "".join(source.choices(liked, k=self.parameters.length)),
            "completion": self._letters(source),
            "completions": completions,
            "ranks": ranks,
        }

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """The share of letters that are liked, of the length that was asked for or more."""
        text = completion.strip()
        liked = sum(text.count(letter) for letter in LIKED[row["prompt"][-1]])
        return liked / max(len(text), self.parameters.length)

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """The planted score, which training need not see."""
        return {"planted_score": self.score(completion, row)}

    def _letters(self, source: random.Random) -> str:
        return "".join(source.choices(LETTERS, k=self.parameters.length))

    def _ranking(self, source: random.Random, liked: str) -> tuple[list[str], list[int]]:
        """Responses in no order, and the rank of each: 0 is the best, ties share one."""
        while True:
            texts = [self._letters(source) for _ in range(self.parameters.candidates)]
            ranks = _ranks([self._worth(source, text, liked) for text in texts])
            if len(set(texts)) == len(texts) and any(ranks):
                return texts, ranks

    def _worth(self, source: random.Random, text: str, liked: str) -> float:
        """Letters that are liked; with Gumbel noise, whose order is one of Plackett and Luce."""
        letters, noise = sum(letter in liked for letter in text), self.parameters.noise
        return letters - noise * math.log(-math.log(1.0 - source.random())) if noise else letters


def _ranks(worths: Sequence[float]) -> list[int]:
    """How many others are worth more."""
    return [sum(other > worth for other in worths) for worth in worths]
