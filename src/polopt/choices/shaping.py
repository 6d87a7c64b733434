"""Shaping: terms that are added to the reward of a response, and responses that are left out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    NonNegative,
    PositiveShare,
    Section,
    by_row,
    needs_some,
    never,
)


class Shaping(Section):
    """Fields of the shaping."""

    overlong_penalty: Annotated[NonNegative | None, by_row(0.0)] = Field(
        default=None,
        description="what a response of max_new_tokens loses of its reward; 0: nothing",
    )
    overlong_buffer: Annotated[
        PositiveShare | None,
        by_row(0.2),  # DAPO: 4096 of 20480 tokens
        needs_some("credit.overlong_penalty"),
    ] = Field(
        default=None, description="last share of max_new_tokens, over which the penalty grows"
    )
    length_reward: NonNegative = Field(
        default=0.0,
        description="weight of a reward for short right responses, within their group; 0: none",
    )
    drop_truncated: Annotated[bool, never("response/truncated", "no response was cut")] = Field(
        default=False,
        description="responses cut by max_new_tokens leave the batch before any statistic",
    )


COLUMN = Column(
    "shaping",
    None,
    {
        "overlong": Choice(
            "polopt.credit.shaping:overlong",
            "r ← r - p · (share of the buffer that the response fills)",
            "polopt.math.shaping:overlong_penalty",
            reads=("credit.overlong_penalty", "credit.overlong_buffer"),
            domains=OF_LANGUAGE,
        ),
        "length": Choice(
            "polopt.credit.shaping:length",
            "r ← r + w λ, λ = ½ - (l - l_min) / (l_max - l_min) if right, min(0, λ) if wrong",
            "polopt.math.shaping:length_reward",
            reads=("credit.length_reward",),
            domains=OF_LANGUAGE,
        ),
    },
)
