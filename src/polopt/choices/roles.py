"""Roles beside the policy, and their losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices import baseline, returns
from polopt.choices.choice import Choice, Column, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    EVERYWHERE,
    Count,
    Needs,
    NonNegative,
    Positive,
    PositiveFloat,
    PositiveShare,
    Section,
    Text,
    Values,
    by_row,
    either,
    needs,
    needs_some,
    never,
)
from polopt.choices.source import parse

_MIXED = needs_some("pretraining.source", "a source")


def reads_values(values: Values) -> bool:
    """Whether returns or baseline read the values of a critic."""
    return (
        values.get("credit.returns") in returns.WITH_CRITIC
        or values.get("credit.baseline") in baseline.WITH_CRITIC
    )


def reads_process(values: Values) -> bool:
    """Whether the return reads the rewards of a process reward model."""
    return values.get("credit.returns") in returns.WITH_PROCESS


_WITH_CRITIC = Needs(
    "credit.returns",
    reads_values,
    f"{either(returns.WITH_CRITIC)}, or credit.baseline = {either(baseline.WITH_CRITIC)}",
)
OF_OWN_CRITIC = needs("critic.trunk", "own")


class Critic(Section):
    """The critic V(s) or Q(s, a), where returns or baseline read values."""

    path: Annotated[Text | None, OF_OWN_CRITIC] = Field(
        default=None,
        description="weights to start from: a model, or stage:NAME; default: those of the policy",
    )
    trunk: Annotated[Literal["own", "shared"] | None, by_row("own"), EVERYWHERE, _WITH_CRITIC] = (
        Field(default=None, description="a model of its own, or a second head on the policy")
    )
    learning_rate: Annotated[
        PositiveFloat | None, by_row(1e-5, control=1e-3), EVERYWHERE, OF_OWN_CRITIC
    ] = Field(default=None, description="peak, of a critic of its own")
    epochs: Annotated[Positive | None, EVERYWHERE, OF_OWN_CRITIC] = Field(
        default=None, description="passes over each batch; default: update.epochs"
    )
    minibatches: Annotated[Positive | None, EVERYWHERE, OF_OWN_CRITIC] = Field(
        default=None, description="optimiser steps in a pass; default: update.minibatches"
    )
    clip: Annotated[  # TRL, lm-human-preferences
        NonNegative | None,
        by_row(0.2, control=0.0),
        EVERYWHERE,
        _WITH_CRITIC,
        never("critic/value_clip_fraction", "no value moved so far"),
    ] = Field(
        default=None,
        description="values may move so far from those before the update; 0: any distance",
    )
    coefficient: Annotated[PositiveFloat | None, by_row(0.1), needs("critic.trunk", "shared")] = (
        Field(default=None, description="of its loss, where it shares the trunk of the policy")
    )
    warmup_steps: Annotated[Count, OF_OWN_CRITIC] = Field(
        default=0, description="batches from which the critic alone learns, at first"
    )
    tau: Annotated[PositiveShare | None, by_row(), EVERYWHERE] = Field(
        default=None,
        description="share of the way that target networks go to the trained ones after every "
        "optimiser step",
    )


class Process(Section):
    """The process reward model, trained on outcomes: a reward for each token."""

    facts = (*Section.facts, returns.OF_PROCESS)

    path: Text | None = Field(
        default=None,
        description="weights to start from: a model, or stage:NAME; default: those of the policy",
    )
    beta: Annotated[PositiveFloat | None, by_row(0.05)] = Field(
        default=None, description="of the reward beta * (log pi - log pi_ref) of a token"
    )
    learning_rate: Annotated[PositiveFloat | None, by_row(1e-6)] = Field(
        default=None, description="peak, of the model"
    )
    coefficient: Annotated[PositiveFloat | None, by_row(1.0)] = Field(
        default=None, description="of the process rewards in the advantage"
    )
    outcome_coefficient: Annotated[NonNegative | None, by_row(1.0)] = Field(
        default=None, description="of the outcome reward in the advantage"
    )
    update: Annotated[Literal["after", "before"] | None, by_row("after")] = Field(
        default=None,
        description="when the model learns from a batch: after it was asked for the rewards, or "
        "before, which takes one more forward pass",
    )


class Pretraining(Section):
    """Pretraining text, whose likelihood is a second loss of the policy (PPO-ptx)."""

    source: Text | None = Field(
        default=None,
        description="hub:NAME, a .jsonl, .parquet or .csv file, or task:NAME for its "
        "demonstrations; default: none",
    )
    field: Annotated[
        Text,
        Needs(
            "pretraining.source",
            lambda values: parse(values["pretraining.source"] or "task:").of.has_columns,
            "a hub: source or a file",
        ),
    ] = Field(default="text", description="column of the text")
    coefficient: Annotated[PositiveFloat, _MIXED] = Field(
        default=27.8, description="of its mean negative log-likelihood (27.8: InstructGPT)"
    )
    batch_size: Annotated[Positive, _MIXED] = Field(
        default=8, description="texts beside each optimiser step"
    )


_OF_CRITIC = ("learning_rate", "epochs", "minibatches", "clip", "coefficient")

ROLES = Column(
    "roles",
    None,
    {
        "actor": Choice(
            "polopt.roles.actor:Actor",
            "π, the policy that is trained",
            elsewhere={
                "control": Variant(
                    "π, categorical or Gaussian: a small network", "polopt.roles.control:StepActor"
                )
            },
        ),
        "action_critic": Choice(
            "polopt.roles.control:ActionCritics", "Q(s, a)", reads=("critic.learning_rate",)
        ),
        "twin_critics": Choice(
            "polopt.roles.control:ActionCritics",
            "Q₁(s, a), Q₂(s, a)",
            reads=("critic.learning_rate",),
        ),
        "target_networks": Choice(
            "polopt.update.lagged:Lagged",
            "φ′ ← τ φ + (1 - τ) φ′",
            "polopt.math.pathwise:soft_update",
            reads=("critic.tau",),
        ),
        "critic": Choice(
            "polopt.roles.critic:Critic",
            "V(s), or Q(s, a)",
            reads=("critic.trunk", *(f"critic.{name}" for name in _OF_CRITIC)),
            elsewhere={
                "control": Variant("V(s), or Q(s, a), beside it", "polopt.roles.control:StepCritic")
            },
        ),
        "process_reward": Choice(
            "polopt.assembly.process:Processed",
            "qₜ = β (log π_φ - log π_ref)ₜ",
            "polopt.math.preference:implicit_reward",
            reads=("process.beta", "process.learning_rate", "process.update"),
            domains=OF_LANGUAGE,
        ),
        "reward_model": Choice(
            "polopt.roles.reward:reward_of",
            "r(x, y), read off the last token",
            domains=OF_LANGUAGE,
        ),
        "reference": Choice(
            "polopt.roles.reference:frozen", "π_ref, the weights of the start", domains=OF_LANGUAGE
        ),
        "lagged_reference": Choice(
            "polopt.update.lagged:Lagged",
            "π_ref, the weights of the start; then θ_ref ← τ θ + (1 - τ) θ_ref",
            "polopt.math.pathwise:soft_update",
            reads=("kl.refresh_every", "kl.refresh_rate"),
            domains=OF_LANGUAGE,
        ),
    },
)
LOSSES = Column(
    "extra_losses",
    None,
    {
        "value": Choice(
            "polopt.objective.value:value_loss",
            "½ max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²)",
            "polopt.math.values:value_loss",
        ),
        "outcome_labels": Choice(
            "polopt.objective.process:process_loss",
            "-r log σ(z) - (1-r) log(1 - σ(z)), z = Σₜ qₜ, r = 1 where the answer is right, else 0",
            "polopt.math.process:prime_cross_entropy",
            domains=OF_LANGUAGE,
        ),
        "entropy": Choice(
            "polopt.objective.policy_gradient:policy_loss",
            "L ← L - c H(π)",
            reads=("objective.entropy_coefficient",),
        ),
        "pretraining": Choice(
            "polopt.assembly.extras:pretraining",
            "L ← L - c E[log π(x)] over text",
            "polopt.objective.supervised:supervised_loss",
            reads=("pretraining.source", "pretraining.coefficient", "pretraining.batch_size"),
            domains=OF_LANGUAGE,
        ),
    },
    reads=("objective.entropy_coefficient",),
)
