"""DAPO: clip-higher, a mean over tokens, an overlong penalty, dynamic sampling.

    L = 1/N Σᵢₜ max(-ρ A, -clip(ρ, 1-ε_low, 1+ε_high) A),  Aᵢ = (Rᵢ - R̄) / σ
    Rᵢ = rᵢ - clip((lᵢ - (L_max - L_cache)) / L_cache, 0, 1)

Yu et al. 2025, arXiv:2503.14476, Eq. 8 to 13. Dynamic sampling (Eq. 11) ends after some rounds.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "dapo",
    summary="clip-higher, token mean, overlong penalty, no KL, dynamic sampling",
    source="Yu et al. 2025, arXiv:2503.14476, Eq. 8 to 13",
    values={
        "rollout.resample_rounds": 10,  # the paper has no end
        "credit.overlong_penalty": 1.0,
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.28,
        "objective.aggregation": "token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
