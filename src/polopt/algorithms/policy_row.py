"""What the rows that sample have in common: groups of samples, credit, an objective, an update."""

from __future__ import annotations

from collections.abc import Mapping

from polopt.algorithms.bodies import NUMBERS as BODIES
from polopt.algorithms.row import Row
from polopt.recipe import Scalar

USES = frozenset(
    {
        "data",
        "rewards",
        "rollout",
        "credit",
        "objective",
        "kl",
        "critic",
        "process",
        "pretraining",
        "update",
        "coordination",
        "evaluation",
        "run",
    }
)
IDLE = frozenset(
    {
        "data.completion_field",
        "update.batch_size",
        "credit.select",
        "credit.threshold",
        "critic.tau",
    }
)

# Numbers where a row has none of its own; choices stand in the row, except those that do nothing.
NUMBERS: Mapping[str, Scalar] = {
    "rollout.group_size": 8,
    "rollout.resample_rounds": 0,
    "rollout.accuracy_min": 0.0,
    "rollout.accuracy_max": 1.0,
    "credit.spread": "none",
    "credit.gamma": 1.0,
    "credit.lambda": 0.95,
    "credit.baseline_decay": 0.9,
    "credit.bootstrap_truncated": False,  # a response that was cut counts as a failure
    "credit.ddof": 1,  # papers are silent; what implementations do inside a group
    "credit.epsilon": 1e-6,
    "credit.overlong_penalty": 0.0,
    "credit.overlong_buffer": 0.2,  # DAPO: 4096 of 20480 tokens
    "objective.bound": "clip",  # of the ratio, where there is one
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
    "objective.penalty_coefficient": 1.0,  # PPO: it adapts, so that the first one does not matter
    "objective.drift": 0.5,
    "objective.weight_min": 0.0,
    "objective.weight_max": 5.0,  # ScaleRL, arXiv:2510.13786
    "objective.tau_positive": 1.0,
    "objective.tau_negative": 1.05,
    "objective.tau": 0.1,
    "objective.mask": "none",
    "objective.second_moment": 0.04,
    "objective.correction": "none",
    "objective.entropy_coefficient": 0.0,
    "kl.coefficient": 0.0,
    "kl.estimator": "k2",  # in the loss the one with the gradient of the KL divergence
    "kl.placement": "loss",
    "kl.importance_corrected": False,
    "kl.controller": "fixed",
    "kl.horizon": 10_000.0,  # Ziegler
    "critic.trunk": "own",
    "critic.learning_rate": 1e-5,
    "critic.clip": 0.2,  # TRL, lm-human-preferences
    "critic.coefficient": 0.1,
    "process.beta": 0.05,
    "process.learning_rate": 1e-6,
    "process.coefficient": 1.0,
    "process.outcome_coefficient": 1.0,
    "process.update": "after",
    "update.learning_rate": 1e-6,
    "update.epochs": 1,
    "update.minibatches": 1,
    "update.reset_optimiser": False,
    "run.steps": 100,
}


def policy_row(
    name: str,
    *,
    summary: str,
    source: str,
    defaults: Mapping[str, Scalar],
    on_bodies: Mapping[str, Scalar] | None = None,
) -> Row:
    """A row of the family; ``defaults`` are its own, and stand before those of the family.

    ``on_bodies`` are what differs on bodies, for a row that is for them too.
    """
    uses = USES if on_bodies is None else USES | {"network", "episodes"}
    idle = IDLE if on_bodies is not None else IDLE | {"evaluation.episodes"}
    return Row(
        name=name,
        summary=summary,
        source=source,
        requires=frozenset({"prompts", "reward"}),
        uses=uses,
        idle=idle,
        defaults={**NUMBERS, **defaults},
        rollout="groups",
        coordination="alternate",
        on_bodies=None if on_bodies is None else {**BODIES, **on_bodies},
    )
