"""Tokens that leave the loss of an optimiser step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices import ratio
from polopt.choices.bound import AT_RATIO_1
from polopt.choices.choice import Choice, Column, Takes
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import PositiveFloat, Section, by_row


class Mask(Section):
    """Fields of the mask."""

    mask: Annotated[Literal["none", "m2po"] | None, by_row("none")] = Field(
        default=None, description="tokens that leave the loss of an optimiser step"
    )
    second_moment: Annotated[PositiveFloat | None, by_row(0.04), AT_RATIO_1] = Field(
        default=None, description="m2po: largest mean of the squared log-ratio"
    )


COLUMN = Column(
    "mask",
    "objective.mask",
    {
        "none": Choice(
            "polopt.objective.policy_gradient:EVERY_TOKEN", "every token of every response"
        ),
        "m2po": Choice(
            "polopt.math.corrections:m2po_mask",
            "drop the largest (log ρ)² where A log ρ > 0, until their mean ≤ τ",
            arguments={"tau": "objective.second_moment"},
            takes=(Takes("objective.ratio", ratio.LEVELS),),
            domains=OF_LANGUAGE,
        ),
    },
    only={"control": "none"},
)
