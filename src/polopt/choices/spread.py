"""How the reward of a response is spread over its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import PositiveShare, Section, Values, by_row

_GAMMA = {"gamma": "credit.spread_gamma"}


class Spread(Section):
    """Fields of the spread."""

    spread: Annotated[
        Literal["none", "discounted", "normalised", "uniform"] | None, by_row("none")
    ] = Field(default=None, description="how the reward of a response is spread over its tokens")
    spread_gamma: Annotated[PositiveShare | None, by_row()] = Field(
        default=None, description="factor from a token to the one before it, in the spread"
    )


def _notes(values: Values) -> Iterator[str]:
    """A sum that grows with the response rewards its length."""
    gamma = values["credit.spread_gamma"]
    if values["credit.spread"] != "discounted":
        return
    yield (
        "credit.spread = discounted rewards length: what it puts on n tokens adds up to "
        f"(1 - {gamma}**n) / (1 - {gamma}) of the reward; normalised keeps the sum"
        if gamma != 1
        else "credit.spread = discounted rewards length: with credit.spread_gamma = 1 "
        "every token has the whole of it; uniform keeps the sum"
    )


COLUMN = Column(
    "spread",
    "credit.spread",
    {
        "none": Choice("polopt.math.shaping:terminal_reward", "r at the last token"),
        "discounted": Choice(
            "polopt.math.shaping:spread_discounted",
            "rₜ = γ^{n-1-t} r, which adds up to more in a longer response",
            arguments=_GAMMA,
            domains=OF_LANGUAGE,
        ),
        "normalised": Choice(
            "polopt.math.shaping:spread_normalised",
            "rₜ = γ^{n-1-t} r / Σₛ γ^{n-1-s}",
            arguments=_GAMMA,
            domains=OF_LANGUAGE,
        ),
        "uniform": Choice("polopt.math.shaping:spread_uniform", "rₜ = r / n", domains=OF_LANGUAGE),
    },
    notes=_notes,
)
