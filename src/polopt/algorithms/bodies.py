"""What rows on bodies have in common: which fields have an effect there, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping

from polopt.recipe import Scalar
from polopt.recipe.contradictions import CONTROL

# Have an effect on bodies alone.
ONLY_BODIES = frozenset({"network", "episodes", "evaluation.episodes"})

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
        "credit.normalisation",
        "credit.ddof",
        "credit.epsilon",
        "objective.ratio",
        "objective.bound",
        "objective.clip_low",
        "objective.clip_high",
        "objective.dual_clip",
        "objective.entropy_coefficient",
        "critic.learning_rate",
        "critic.epochs",
        "critic.minibatches",
        "critic.clip",
        "critic.trunk",
        "update",
        "trust_region",
        "evaluation.every",
        "run",
    }
)

# Numbers where a row has none of its own.
NUMBERS: Mapping[str, Scalar] = {
    "episodes.environments": 16,
    "episodes.steps": 128,
    "episodes.whole": False,
    "credit.gamma": 0.99,
    "update.learning_rate": 1e-3,
    "critic.learning_rate": 1e-3,
    "critic.clip": 0.0,
    "kl.coefficient": 0.0,  # there is no reference
}


def is_on_bodies(source: str) -> bool:
    """Whether a data source is an environment of control."""
    return source.startswith(CONTROL)


def about(field: str, fields: frozenset[str]) -> bool:
    """Whether a dotted field, or its section, is among ``fields``."""
    return field in fields or field.partition(".")[0] in fields
