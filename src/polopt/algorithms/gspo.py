"""GSPO: the ratio of the whole response, as a geometric mean, clipped once.

    L = 1/B Σᵢ max(-sᵢ A, -clip(sᵢ, 1-ε_low, 1+ε_high) A),  sᵢ = exp(1/nᵢ Σₜ log ρᵢₜ)

Zheng et al. 2025, arXiv:2507.18071, Eq. 5 and 7; the clip range is of its experiments.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "gspo",
    summary="one clipped ratio a response: the geometric mean over its tokens",
    source="Zheng et al. 2025, arXiv:2507.18071, Eq. 5 and 7",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "sequence_mean",
        "objective.bound": "clip",
        "objective.clip_low": 3e-4,
        "objective.clip_high": 4e-4,
        "objective.aggregation": "seq_mean_token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
