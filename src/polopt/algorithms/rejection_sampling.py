"""Rejection sampling: in every step sample several responses, and fine-tune on the best.

    L = -1/N Σ_{i kept} Σₜ log π(yᵢₜ | xᵢ, yᵢ,<ₜ),  N tokens of those that are kept

Dong et al. 2023, RAFT, arXiv:2304.06767, Algorithm 1: a policy gradient with advantages 0 and 1.
"""

from __future__ import annotations

from polopt.recipe.row import Place, Row

ROW = Row(
    name="rejection_sampling",
    summary="samples several responses and fine-tunes on the best, in every step",
    source="Dong et al. 2023, RAFT, arXiv:2304.06767, Algorithm 1",
    requires=frozenset({"prompts", "reward"}),
    uses=frozenset(
        {
            "data",
            "rewards",
            "rollout",
            "credit.select",
            "credit.threshold",
            "credit.drop_truncated",
            "objective.aggregation",
            "objective.aggregation_length",
            "update",
            "coordination",
            "evaluation",
            "run",
        }
    ),
    idle=frozenset({"update.batch_size"}),
    places={"text": Place("polopt.assembly.supervised:imitated_stage", "groups", "alternate")},
    values={
        "credit.select": "best",
        "credit.threshold": 1.0,  # the reward of a right answer by a verifier
        "objective.aggregation": "token_mean",
        "update.learning_rate": 1e-5,
    },
)
