"""What rows on bodies have in common: which fields have an effect there, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping

from polopt.algorithms.choice import Choice
from polopt.recipe import Scalar, StageRecipe
from polopt.recipe.contradictions import CONTROL

# Have an effect on bodies alone.
ONLY_BODIES = frozenset(
    {"network", "episodes", "replay", "exploration", "temperature", "evaluation.episodes"}
)

# Have an effect on bodies; everything else is about text.
OF_BODIES = ONLY_BODIES | frozenset(
    {
        "algorithm",
        "from",
        "until",
        "model.path",
        "data.source",
        "data.parameters",
        "credit.returns",
        "credit.gamma",
        "credit.lambda",
        "credit.critic_lambda",
        "credit.baseline",
        "credit.baseline_constant",
        "credit.baseline_decay",
        "credit.normalisation",
        "credit.ddof",
        "credit.epsilon",
        "objective.ratio",
        "objective.bound",
        "objective.clip_low",
        "objective.clip_high",
        "objective.dual_clip",
        "objective.penalty_coefficient",
        "objective.penalty_target",
        "objective.entropy_coefficient",
        "critic.learning_rate",
        "critic.epochs",
        "critic.minibatches",
        "critic.clip",
        "critic.trunk",
        "critic.tau",
        "update",
        "trust_region",
        "evaluation.every",
        "run",
    }
)

# What a network is made of: that of the stage before, where it goes on with its weights.
OF_NETWORK = frozenset({"network", "episodes.normalise_observations"})

# Numbers where a row has none of its own.
NUMBERS: Mapping[str, Scalar] = {
    "network.activation": "tanh",
    "episodes.environments": 16,
    "episodes.steps": 128,
    "episodes.whole": False,
    "credit.gamma": 0.99,
    "update.learning_rate": 1e-3,
    "critic.learning_rate": 1e-3,
    "critic.clip": 0.0,
    "kl.coefficient": 0.0,  # there is no reference
}


# Choices whose name is that on text, and whose function or meaning is another on bodies.
CHOICES: Mapping[str, Mapping[str, Choice]] = {
    "returns": {
        "gae": Choice(
            "polopt.credit.temporal:step_gae",
            "Ψₜ - V(sₜ) = Σₗ (γλ)ˡ δₜ₊ₗ up to the end of the episode, δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ), "
            "V(sₜ₊₁) = 0 where it is terminated and not where it is truncated",
            "polopt.math.returns:gae",
            {
                "gamma": "credit.gamma",
                "lam": "credit.lambda",
                "critic_lam": "credit.critic_lambda",
            },
            factory=True,
        ),
        "q": Choice(
            "polopt.credit.temporal:step_action_value",
            "Ψₜ = Q(sₜ, aₜ), which learns rₜ + γ Σ_a π(a | sₜ₊₁) Q(sₜ₊₁, a)",
            "polopt.math.returns:gae",
            {"gamma": "credit.gamma"},
            factory=True,
        ),
    },
    "baseline": {
        "ema": Choice(
            "polopt.credit.outcome:constant",
            "b, then b ← α b + (1 - α) Ψ̄ of the batch",
            "polopt.math.baselines:ema_update",
            {"value": "credit.baseline_constant"},  # where the moving number stands
            factory=True,
        ),
        "running_mean": Choice(
            "polopt.credit.outcome:constant",
            "b = mean of Ψ over all steps of earlier batches",
            "polopt.math.baselines:running_mean_update",
            {"value": "credit.baseline_constant"},
            factory=True,
        ),
    },
    "normalisation": {
        "batch_z": Choice(
            "polopt.credit.outcome:batch_z",
            "A = (Ψ - b - μ) / √(σ² + ε) over the steps of the batch",
            "polopt.math.normalise:whiten",
            {"eps": "credit.epsilon", "ddof": "credit.ddof"},
            factory=True,
        ),
    },
    "aggregation": {"token_mean": Choice("polopt.math.reduce:token_mean", "L = mean of ℓ")},
    "roles": {
        "actor": Choice(
            "polopt.roles.control:StepActor", "π, categorical or Gaussian: a small network"
        ),
        "critic": Choice("polopt.roles.control:StepCritic", "V(s), or Q(s, a), beside it"),
    },
    "coordination": {
        "alternate": Choice("polopt.rollout.episodes:EpisodeSource", "play, then train: lag 0"),
    },
}


# What rows that learn from a replay buffer listen to.
OFF_POLICY = frozenset(
    {
        "data.source",
        "data.parameters",
        "network.hidden",
        "network.activation",
        "episodes.environments",
        "episodes.steps",
        "replay",
        "credit.gamma",
        "critic.learning_rate",
        "critic.tau",
        "update.learning_rate",
        "update.batch_size",
        "update.beta1",
        "update.beta2",
        "update.warmup_steps",
        "update.decay",
        "evaluation.every",
        "evaluation.episodes",
        "run",
    }
)
ALWAYS = frozenset({"episodes.steps", "credit.gamma", "critic.learning_rate"})  # in those rows


def turns(stage: StageRecipe) -> float:
    """Optimiser steps in one recorded step of a resolved stage of those rows."""
    count, steps = stage.episodes.environments, stage.episodes.steps
    assert count and steps and stage.replay.updates_per_step
    return round(count * steps * stage.replay.updates_per_step, 9)


def is_on_bodies(source: str) -> bool:
    """Whether a data source is an environment of control."""
    return source.startswith(CONTROL)


def about(field: str, fields: frozenset[str]) -> bool:
    """Whether a dotted field, or its section, is among ``fields``."""
    return field in fields or field.partition(".")[0] in fields
