"""Dr. GRPO: GRPO without its two divisions, by the spread and by the length.

    L = 1/(B L_max) Σᵢₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A),  Aᵢ = rᵢ - r̄

Liu et al. 2025, Understanding R1-Zero-like training, arXiv:2503.20783.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "dr_grpo",
    summary="GRPO without the division by the spread and by the length",
    source="Liu et al. 2025, arXiv:2503.20783",
    defaults={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "none",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "seq_mean_token_sum_const",
    },
)


def build(parts: Parts) -> Stage:
    """Sample groups, centre their rewards, take clipped steps on sums over a constant length."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
