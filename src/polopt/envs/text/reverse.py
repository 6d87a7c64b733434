"""Reversal of a short string: the smallest task with a verifier."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from polopt.envs.text.interface import Split, right_answer, split_of
from polopt.recipe import Section


class Parameters(Section):
    """Size of the strings."""

    length: int = Field(default=4, ge=2, le=64, description="letters to reverse")


@dataclass(frozen=True)
class Reverse:
    """``tops=`` is answered by ``spot``."""

    seed: int
    parameters: Parameters = field(default_factory=Parameters)
    is_accuracy: bool = field(default=True, init=False)
    reads: tuple[str, ...] = field(default=("answer",), init=False)

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "reverse"

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """Random letters, and the same backwards as answer and demonstration."""
        source = random.Random(f"{self.name}/{self.seed}/{split}/{index}")
        while True:
            letters = "".join(source.choices(string.ascii_lowercase, k=self.parameters.length))
            if split_of(f"{letters}=") == split:
                break
        answer = letters[::-1]
        return {"prompt": f"{letters}=", "answer": answer, "completion": answer}

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """1.0 where the completion is the answer, but for whitespace around it."""
        return float(completion.strip() == right_answer(row))

    def extract(self, completion: str) -> str:
        """All of it, but for whitespace around it."""
        return completion.strip()

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """No further metrics."""
        return {}
