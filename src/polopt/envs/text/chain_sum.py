"""Chained arithmetic: the demonstrations show two ways to answer, and one of them works better.

A direct answer to ``3+8-9+1-2=`` is ``>1``. A worked-out one carries the result so far from step to
step, operands side by side: ``3+8=1;1-9=2;2+1=3;3-2=1>1``. Every result is taken modulo 10 or less,
so it is one digit. A small model learns the steps long before it can do the sum in one go: what a
policy has to discover is that working it out earns the reward.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from polopt.envs.text.interface import Split, right_answer, split_of
from polopt.recipe import Section


class Parameters(Section):
    """Size of the problems and mixture of the demonstrations."""

    terms: int = Field(default=5, ge=3, le=64, description="numbers in the chain")
    modulus: int = Field(default=10, ge=2, le=10, description="results are below it: one digit")
    direct_share: float = Field(
        default=0.6, ge=0, le=1, description="demonstrations without working"
    )


@dataclass(frozen=True)
class ChainSum:
    """Sums and differences of digits, modulo a number of at most 10."""

    seed: int
    parameters: Parameters = field(default_factory=Parameters)
    is_accuracy: bool = field(default=True, init=False)
    reads: tuple[str, ...] = field(default=("answer",), init=False)

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "chain_sum"

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """The problem of an index, its answer and a demonstration, direct or worked out."""
        source = random.Random(f"{self.name}/{self.seed}/{split}/{index}")
        # Small digits come more often. Of uniform ones a sum says nothing about either of its
        # operands alone, and a model sits on a plateau until it happens to read both at once.
        weights = [1 / (1 + digit) for digit in range(self.parameters.modulus)]
        while True:
            digits = source.choices(range(len(weights)), weights, k=self._terms)
            signs = [source.choice("+-") for _ in range(self._terms - 1)]
            problem = "".join(f"{s}{d}" for s, d in zip(["", *signs], digits, strict=True)) + "="
            if split_of(problem) == split:
                break
        steps = self._steps(digits, signs)
        answer = steps[-1][-1]
        working = "" if source.random() < self.parameters.direct_share else ";".join(steps)
        return {"prompt": problem, "answer": answer, "completion": f"{working}>{answer}"}

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """1.0 where what follows the last ``>`` is the answer and nothing else."""
        right = right_answer(row)  # what is no answer is refused, whatever the completion
        _, mark, given = completion.rpartition(">")
        return float(mark == ">" and given.strip() == right)

    def extract(self, completion: str) -> str:
        """What follows the last ``>``."""
        return completion.rpartition(">")[2].strip()

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """Whether the answer was worked out, and the accuracy of each of the two ways."""
        worked, score = "=" in completion, self.score(completion, row)
        return {
            "worked": float(worked),
            "worked_accuracy": score if worked else None,
            "direct_accuracy": None if worked else score,
        }

    @property
    def _terms(self) -> int:
        return self.parameters.terms

    def _steps(self, digits: list[int], signs: list[str]) -> list[str]:
        """Each step of the working, such as ``1-9=2``."""
        steps: list[str] = []
        total = digits[0]
        for sign, digit in zip(signs, digits[1:], strict=True):
            result = (total + digit if sign == "+" else total - digit) % self.parameters.modulus
            steps.append(f"{total}{sign}{digit}={result}")
            total = result
        return steps
