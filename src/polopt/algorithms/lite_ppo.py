"""Lite PPO: rewards centred in the group, scaled by the spread of the batch.

    L = 1/N Σᵢₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A),  Aᵢ = (rᵢ - r̄ of the group) / σ of the batch

Liu et al. 2025, Tricks or Traps, arXiv:2508.08221.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "lite_ppo",
    summary="group mean, spread of the batch, token mean, clipped ratio",
    source="Liu et al. 2025, arXiv:2508.08221",
    defaults={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "batch_std",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "token_mean",
    },
)


def build(parts: Parts) -> Stage:
    """Sample groups, centre in the group and scale by the batch, take clipped steps."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
