"""The surrogate loss: how the ratio is bounded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices import ratio
from polopt.choices.choice import Choice, Column, Takes, Trait
from polopt.choices.coordination import anchored_in_sampling
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    EVERYWHERE,
    BelowOne,
    Inert,
    NonNegative,
    PositiveFloat,
    Section,
    Values,
    by_row,
    needs,
    never,
)
from polopt.choices.update import optimiser_steps

_MATH = "polopt.math.surrogates:"
_CLIP = {"low": "objective.clip_low", "high": "objective.clip_high"}


def _at_ratio_1(values: Values) -> str | None:
    """With one optimiser step per batch ρ = 1: settings that act at other ratios never do."""
    if optimiser_steps(values) > 1 or anchored_in_sampling(values):
        return None
    return "with 1 epoch and 1 minibatch the ratio is 1"


AT_RATIO_1 = Inert(_at_ratio_1)
_LOW = never("policy/clip_fraction_low", "no ratio went below it where that is held back")
_HIGH = never("policy/clip_fraction_high", "no ratio went above it where that is held back")


class Bound(Section):
    """Fields of the bound."""

    bound: Annotated[
        Literal["none", "clip", "kl_penalty", "opsm", "gmpo", "cispo", "sapo", "opmd"] | None,
        by_row("clip"),  # the surrogate loss of the ratio
        EVERYWHERE,
        needs("objective.ratio", *ratio.LEVELS),
    ] = Field(default=None, description="trust region in the loss")
    clip_low: Annotated[BelowOne | None, by_row(0.2), EVERYWHERE, AT_RATIO_1, _LOW] = Field(
        default=None,
        description="ratio is clipped below 1 - clip_low; gmpo: its logarithm below -clip_low",
    )
    clip_high: Annotated[NonNegative | None, by_row(0.2), EVERYWHERE, AT_RATIO_1, _HIGH] = Field(
        default=None,
        description="ratio is clipped above 1 + clip_high; gmpo: its logarithm above clip_high",
    )
    dual_clip: Annotated[
        Annotated[float, Field(gt=1)] | None,
        EVERYWHERE,
        AT_RATIO_1,
        never("policy/dual_clip_fraction", "no ratio went beyond it"),
    ] = Field(
        default=None,
        description="bound on the ratio where the advantage is negative; default: none",
    )
    penalty_coefficient: Annotated[  # PPO: it adapts, so that the first one does not matter
        PositiveFloat | None, by_row(1.0), EVERYWHERE, AT_RATIO_1
    ] = Field(default=None, description="kl_penalty: weight of KL(pi_old, pi), at first")
    penalty_target: Annotated[PositiveFloat | None, EVERYWHERE, AT_RATIO_1] = Field(
        default=None,
        description="kl_penalty: KL(pi_old, pi) a token that an update should have; the weight "
        "halves below and doubles above; default: the weight stays",
    )
    drift: Annotated[
        PositiveFloat | None,
        by_row(0.5),
        AT_RATIO_1,
        never("policy/stale_fraction", "no response was left out"),
    ] = Field(
        default=None,
        description="opsm: mean of log pi_old - log pi from which a response with negative "
        "advantage is left out",
    )
    weight_min: Annotated[NonNegative | None, by_row(0.0)] = Field(
        default=None, description="cispo: least weight of a token, a ratio and not a distance to 1"
    )
    weight_max: Annotated[PositiveFloat | None, by_row(5.0), _HIGH] = (
        Field(  # ScaleRL, arXiv:2510.13786
            default=None, description="cispo: largest weight of a token"
        )
    )
    tau_positive: Annotated[PositiveFloat | None, by_row(1.0), AT_RATIO_1] = Field(
        default=None, description="sapo: how fast the gate closes where the advantage is positive"
    )
    tau_negative: Annotated[PositiveFloat | None, by_row(1.05), AT_RATIO_1] = Field(
        default=None, description="sapo: the same where it is not positive"
    )
    tau: Annotated[PositiveFloat | None, by_row(0.1), AT_RATIO_1] = Field(
        default=None, description="opmd: weight of the squared log-ratio"
    )


_VANISHES = frozenset[Trait]({"vanishes"})
_BY_TOKEN = (Takes("objective.ratio", ("token",)),)

COLUMN = Column(
    "bound",
    "objective.bound",
    {
        "none": Choice(_MATH + "importance_sampled", "ℓ = -ρ A", traits=_VANISHES),
        "clip": Choice(
            _MATH + "clipped",
            "ℓ = max(-ρ A, -clip(ρ, 1 - ε_low, 1 + ε_high) A)",
            arguments={**_CLIP, "dual": "objective.dual_clip"},
            traits=_VANISHES,
        ),
        "kl_penalty": Choice(
            _MATH + "kl_penalised",
            "ℓ = -ρ A + β (ρ - 1 - log ρ), on average -ρ A + β KL(π_old‖π)",
            arguments={"coefficient": "objective.penalty_coefficient"},
            reads=("objective.penalty_target",),
            takes=_BY_TOKEN,
        ),
        "opsm": Choice(
            _MATH + "clipped_unless_stale",
            "as clip; ℓ = 0 where A < 0 and 1/n Σₜ (log π_old - log π)ₜ > δ",
            arguments={**_CLIP, "drift": "objective.drift"},
            takes=_BY_TOKEN,
            domains=OF_LANGUAGE,
            traits=_VANISHES,
        ),
        "gmpo": Choice(
            _MATH + "gmpo",
            "ℓ = -A exp(1/n Σₜ cₜ), cₜ = log ρₜ clipped to [-ε_low, ε_high] where that lowers A cₜ",
            arguments=_CLIP,
            takes=_BY_TOKEN,
            domains=OF_LANGUAGE,
            traits=_VANISHES,
        ),
        "cispo": Choice(
            _MATH + "cispo",
            "ℓ = -w A log π, w = clip(ρ, w_min, w_max) held constant",
            arguments={"weight_min": "objective.weight_min", "weight_max": "objective.weight_max"},
            domains=OF_LANGUAGE,
            traits=_VANISHES,
        ),
        "sapo": Choice(
            _MATH + "sapo",
            "ℓ = -A 4/τ σ(τ (ρ - 1)), τ by the sign of A",
            arguments={
                "tau_positive": "objective.tau_positive",
                "tau_negative": "objective.tau_negative",
            },
            domains=OF_LANGUAGE,
            traits=_VANISHES,
        ),
        "opmd": Choice(
            _MATH + "opmd",
            "Σₜ ℓ = -A log π(y) + τ/2 (log ρ)²",
            arguments={"tau": "objective.tau"},
            takes=(Takes("objective.ratio", ("sequence_sum",)),),
            domains=OF_LANGUAGE,
        ),
    },
)
