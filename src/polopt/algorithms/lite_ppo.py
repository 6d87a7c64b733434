"""Lite PPO: rewards centred in the group, scaled by the spread of the batch.

    L = 1/N Σᵢₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A),  Aᵢ = (rᵢ - r̄ of the group) / σ of the batch

Liu et al. 2025, Tricks or Traps, arXiv:2508.08221.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "lite_ppo",
    summary="group mean, spread of the batch, token mean, clipped ratio",
    source="Liu et al. 2025, arXiv:2508.08221",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "batch_std",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "token_mean",
    },
)
