"""CISPO: the ratio is a capped weight and a constant; no token loses its gradient.

    L = -1/N Σᵢₜ w A log π(yᵢₜ | ·),  w = clip(ρ, w_min, w_max) held constant,  Aᵢ = (rᵢ - r̄) / σ

MiniMax 2025, MiniMax-M1, arXiv:2506.13585, Eq. 4 and 5; the cap of 5 is of ScaleRL,
arXiv:2510.13786.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "cispo",
    summary="capped importance weights held constant: every token keeps its gradient",
    source="MiniMax-M1, arXiv:2506.13585, Eq. 4 and 5",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "cispo",
        "objective.weight_min": 0.0,
        "objective.weight_max": 5.0,
        "objective.aggregation": "token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
