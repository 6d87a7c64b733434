"""Columns of the rows that learn from a replay buffer: exploration, targets, temperature."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.section import (
    OF_NETWORKS,
    Count,
    Positive,
    PositiveFloat,
    PositiveShare,
    Section,
    by_row,
    needs,
)

_NOISE, _MATH = "polopt.math.noise:", "polopt.math.pathwise:"
_PATHWISE = "polopt.objective.pathwise:"
_LEARNED = needs("temperature.loss", "log", "exp")


class Replay(Section):
    """The buffer of steps that an off-policy method learns from, and how often it does."""

    facts: ClassVar[tuple[object, ...]] = (OF_NETWORKS,)

    size: Annotated[Positive | None, by_row(1_000_000)] = Field(
        default=None, description="newest steps that are kept"
    )
    start_steps: Annotated[Count | None, by_row(1000)] = Field(
        default=None, description="random steps before the first optimiser step"
    )
    updates_per_step: Annotated[PositiveFloat | None, by_row(1.0)] = Field(
        default=None, description="optimiser steps for each step of an environment after them"
    )


class Exploration(Section):
    """Noise on the actions of a deterministic policy while it is trained."""

    facts: ClassVar[tuple[object, ...]] = (OF_NETWORKS,)

    noise: Annotated[Literal["none", "gaussian", "ou"] | None, by_row()] = Field(
        default=None, description="ou: Ornstein-Uhlenbeck with dt = 1, anew in every episode"
    )
    sigma: Annotated[PositiveFloat | None, by_row()] = Field(
        default=None, description="of its draws, as a share of half the range of an action"
    )
    theta: Annotated[PositiveShare | None, by_row()] = Field(
        default=None, description="ou: share of the noise that each step takes back"
    )


class Temperature(Section):
    """The entropy coefficient alpha of maximum-entropy policies (SAC)."""

    facts: ClassVar[tuple[object, ...]] = (OF_NETWORKS,)

    initial: Annotated[PositiveFloat | None, by_row()] = Field(
        default=None, description="alpha at first"
    )
    loss: Annotated[Literal["none", "log", "exp"] | None, by_row()] = Field(
        default=None, description="by which alpha is learned, of log alpha or of alpha; none: fixed"
    )
    target_entropy: Annotated[float | None, _LEARNED] = Field(
        default=None,
        description="nats that the policy should have; default: minus the numbers of an action",
    )
    learning_rate: Annotated[PositiveFloat | None, _LEARNED] = Field(
        default=None, description="peak, of log alpha; default: update.learning_rate"
    )


EXPLORATION = Column(
    "exploration",
    "exploration.noise",
    {
        "none": Choice(_NOISE + "no_noise", "a = μ(s)"),
        "gaussian": Choice(
            _NOISE + "gaussian_noise",
            "a = clip(μ(s) + σ N(0, 1), ±1)",
            arguments={"sigma": "exploration.sigma"},
        ),
        "ou": Choice(
            _NOISE + "ou_noise",
            "a = clip(μ(s) + x, ±1), x ← x - θ x + σ N(0, 1)",
            arguments={"sigma": "exploration.sigma", "theta": "exploration.theta"},
        ),
    },
)
TARGET = Column(
    "target",
    None,
    {
        "q": Choice(
            _PATHWISE + "deterministic_q_loss",
            "y = r + γ (1 - terminated) Q′(s′, μ′(s′)), L = E[(Q(s, a) - y)²]",
            _MATH + "ddpg_target",
            reads=("credit.gamma",),
        ),
        "soft_q": Choice(
            _PATHWISE + "soft_q_loss",
            "y = r + γ (1 - terminated) [min Q′(s′, a′) - α log π(a′|s′)], "
            "L = Σₖ E[(Qₖ(s, a) - y)²]",
            _MATH + "sac_target",
            reads=("credit.gamma",),
        ),
    },
)
PATHWISE = Column(
    "pathwise",
    None,
    {
        "deterministic": Choice(
            _PATHWISE + "deterministic_policy_loss",
            "L = -E[Q(s, μ(s))]",
            _MATH + "ddpg_policy_loss",
        ),
        "soft": Choice(
            _PATHWISE + "soft_policy_loss",
            "L = E[α log π(a|s) - min Q(s, a)], a = tanh(μ + σ N(0, 1))",
            _MATH + "sac_policy_loss",
        ),
    },
)
TEMPERATURE = Column(
    "temperature",
    "temperature.loss",
    {
        "none": Choice(_MATH + "temperature_loss_none", "α"),
        "log": Choice(_MATH + "temperature_loss_log", "L = -log α E[log π + H̄]"),
        "exp": Choice(_MATH + "temperature_loss_exp", "L = -α E[log π + H̄]"),
    },
    reads=("temperature.initial", "temperature.target_entropy", "temperature.learning_rate"),
)
