"""The metric of evaluation that a stage is judged by: its headline, and its best weights."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class Name(NamedTuple):
    """A metric in words."""

    said: str  # in a sentence
    is_share: bool = False  # between 0 and 1


HEADLINES = {  # the first that was measured; more is better
    "accuracy": Name("accuracy", is_share=True),
    "reward": Name("mean reward"),
    "return_mean": Name("mean return"),
    "pair_accuracy": Name("accuracy on pairs", is_share=True),
    "token_accuracy": Name("accuracy of tokens", is_share=True),
}
LESS_IS_BETTER = ("nll", "kl", "calibration_error", "truncated")


def headline_of(measured: Container[str]) -> str | None:
    """The name of the metric; None: none of them was measured."""
    return next((name for name in HEADLINES if name in measured), None)


def words_of(name: str) -> str:
    """A metric in words; of one that the user named, its name."""
    return HEADLINES[name].said if name in HEADLINES else name
