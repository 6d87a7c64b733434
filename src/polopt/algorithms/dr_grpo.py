"""Dr. GRPO: GRPO without its two divisions, by the spread and by the length.

    L = 1/(B L_max) Σᵢₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A),  Aᵢ = rᵢ - r̄

Liu et al. 2025, Understanding R1-Zero-like training, arXiv:2503.20783.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "dr_grpo",
    summary="GRPO without the division by the spread and by the length",
    source="Liu et al. 2025, arXiv:2503.20783",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "none",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "seq_mean_token_sum_const",
    },
)
