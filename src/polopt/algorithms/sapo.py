"""SAPO: a soft gate on the ratio instead of a clip.

    L = -1/B Σᵢ 1/nᵢ Σₜ A 4/τ σ(τ (ρ - 1)),  τ = τ_positive where A > 0, else τ_negative

Soft adaptive policy optimisation, arXiv:2511.20347. Negative advantages are gated faster.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "sapo",
    summary="a sigmoid gate on the ratio in the place of the clip",
    source="SAPO, arXiv:2511.20347",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "sapo",
        "objective.tau_positive": 1.0,
        "objective.tau_negative": 1.05,
        "objective.aggregation": "seq_mean_token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
