"""Answers to questions of mathematics, compared by math-verify."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from polopt.isolated.answers import extracted

MARKS = ("$", "\\(", "\\[", "\\boxed")  # of LaTeX in text
HASHES = "####"  # before the answer in the rows of GSM8K


def prepare() -> Callable[[str, str], bool | None]:
    """The function that judges, with everything imported that it needs."""
    judge("\\boxed{\\frac{1}{2}}", "0.5")
    return judge


def judge(completion: str, right: str) -> bool | None:
    """Whether the last answer of a completion is the right one; None: the right one says nothing.

    The answer is what is boxed; without a box the last expression, in LaTeX or plain. Where there
    are ``<answer>`` tags, nothing outside of the last of them counts. Two boxed answers are a set
    of two, so that guessing twice is wrong. The time limits of the package are off: they use a
    signal handler of Python, for which C code does not wait.
    """
    from math_verify import verify  # pyright: ignore[reportMissingImports] - an extra

    gold = _gold(right)
    if not gold:
        return None
    return bool(verify(gold, _parsed(extracted(completion)), timeout_seconds=None))


@lru_cache(maxsize=1024)  # one for all responses to a prompt
def _gold(right: str) -> list[Any]:
    """The right answer, which is LaTeX with or without marks around it."""
    answer = right.rpartition(HASHES)[2].strip()
    boxed = answer if any(mark in answer for mark in MARKS) else f"\\boxed{{{answer}}}"
    return _parsed(boxed)


def _parsed(text: str) -> list[Any]:
    """The expression and its text; nothing where there is none."""
    from math_verify import (  # pyright: ignore[reportMissingImports] - an extra
        ExprExtractionConfig,
        LatexExtractionConfig,
        parse,
    )

    kinds = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(text, kinds, parsing_timeout=0)
