"""Which responses are imitated, by rows that sample and imitate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import Section, by_row


class Select(Section):
    """Fields of the selection."""

    select: Annotated[Literal["best", "threshold"] | None, by_row()] = Field(
        default=None, description="which responses are imitated"
    )
    threshold: Annotated[float | None, by_row()] = Field(
        default=None, description="threshold: least reward of a response that is imitated"
    )


COLUMN = Column(
    "select",
    "credit.select",
    {
        "best": Choice(
            "polopt.math.selection:best_of_group",
            "best response to each prompt, the first of equals",
            traits=frozenset({"compares"}),
            domains=OF_LANGUAGE,
        ),
        "threshold": Choice(
            "polopt.math.selection:at_least",
            "r ≥ threshold",
            arguments={"threshold": "credit.threshold"},
            domains=OF_LANGUAGE,
        ),
    },
)
