"""GRPO: advantages relative to a group of responses, clipped ratio, KL in the loss.

    J = E[ 1/G Σᵢ 1/|oᵢ| Σₜ { min(ρ A, clip(ρ, 1-ε, 1+ε) A) - β k3 } ],  Aᵢ = (rᵢ - r̄) / σ

Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3; KL estimator Eq. 4. The paper samples 64
responses to a prompt.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "grpo",
    summary="advantages relative to a group of responses, clipped ratio, no critic",
    source="Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "seq_mean_token_mean",
        "kl.coefficient": 0.04,
        "kl.estimator": "k3",
        "kl.placement": "loss",
    },
)
