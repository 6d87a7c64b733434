"""The aggregation of token losses, and the entropy bonus."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import EVERYWHERE, NonNegative, Positive, Section, by_row

_MATH = "polopt.math.reduce:"


class Aggregation(Section):
    """Fields of the aggregation."""

    aggregation: Annotated[
        Literal[
            "token_mean",
            "seq_mean_token_mean",
            "seq_mean_token_sum",
            "seq_mean_token_sum_const",
            "prompt_mean",
        ]
        | None,
        by_row(),
    ] = Field(default=None, description="how token losses become one number")
    aggregation_length: Positive | None = Field(
        default=None, description="constant L of seq_mean_token_sum_const; default: max_new_tokens"
    )
    entropy_coefficient: Annotated[NonNegative | None, by_row(0.0), EVERYWHERE] = Field(
        default=None, description="entropy bonus"
    )


COLUMN = Column(
    "aggregation",
    "objective.aggregation",
    {
        "token_mean": Choice(
            _MATH + "token_mean",
            "L = Σᵢₜ ℓ / Σᵢ nᵢ",
            elsewhere={"control": Variant("L = mean of ℓ")},
        ),
        "seq_mean_token_mean": Choice(
            _MATH + "seq_mean_token_mean", "L = 1/B Σᵢ 1/nᵢ Σₜ ℓ", domains=OF_LANGUAGE
        ),
        "seq_mean_token_sum": Choice(
            _MATH + "seq_mean_token_sum", "L = 1/B Σᵢ Σₜ ℓ", domains=OF_LANGUAGE
        ),
        "seq_mean_token_sum_const": Choice(
            _MATH + "seq_mean_token_sum_const",
            "L = 1/(B L_max) Σᵢₜ ℓ",
            reads=("objective.aggregation_length",),
            domains=OF_LANGUAGE,
        ),
        "prompt_mean": Choice(
            _MATH + "prompt_mean",
            "L = mean over prompts of the token mean inside each",
            domains=OF_LANGUAGE,
        ),
    },
    only={"control": "token_mean"},
)
