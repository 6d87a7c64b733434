"""GRPO: advantages relative to a group of responses, clipped ratio, KL in the loss.

    J = E[ 1/G Σᵢ 1/|oᵢ| Σₜ { min(ρ A, clip(ρ, 1-ε, 1+ε) A) - β k3 } ],  Aᵢ = (rᵢ - r̄) / σ

Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3; KL estimator Eq. 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="grpo",
    summary="advantages relative to a group of responses, clipped ratio, no critic",
    source="Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3",
    requires=frozenset({"prompts", "reward"}),
    uses=frozenset(
        {
            "data",
            "rewards",
            "rollout",
            "credit",
            "objective",
            "kl",
            "update",
            "coordination",
            "evaluation",
            "run",
        }
    ),
    idle=frozenset({"data.completion_field", "credit.lambda", "update.batch_size"}),
    defaults={
        "rollout.group_size": 8,  # the paper samples 64
        "credit.returns": "outcome",
        "credit.gamma": 1.0,
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "credit.ddof": 1,  # paper silent; what every implementation does
        "credit.epsilon": 1e-6,
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.2,
        "objective.aggregation": "seq_mean_token_mean",
        "objective.entropy_coefficient": 0.0,
        "kl.coefficient": 0.04,
        "kl.estimator": "k3",
        "kl.placement": "loss",
        "update.learning_rate": 1e-6,
        "update.epochs": 1,
        "update.minibatches": 1,
        "run.steps": 100,
    },
    rollout="groups",
    coordination="alternate",
    roles=("actor", "reference"),
)


def build(parts: Parts) -> Stage:
    """Sample groups, centre and scale their rewards, take clipped policy-gradient steps."""
    from polopt.algorithms.build import credit_of, policy_gradient, sampled_stage

    return sampled_stage(parts, policy_gradient(parts.recipe), credit_of(parts.recipe))
