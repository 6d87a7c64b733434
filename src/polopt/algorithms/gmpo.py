"""GMPO: the geometric mean of the token ratios, each clipped before the mean.

    L = -1/B Σᵢ Aᵢ exp(1/nᵢ Σₜ cᵢₜ),  cₜ = s min(s log ρₜ, s clip(log ρₜ, -ε, ε)),  s = sgn A

Zhao et al. 2025, arXiv:2507.20673; ε acts on the logarithm of the ratio.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "gmpo",
    summary="geometric mean of token ratios, clipped in log space before the mean",
    source="Zhao et al. 2025, arXiv:2507.20673",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "gmpo",
        "objective.clip_low": 0.4,
        "objective.clip_high": 0.4,
        "objective.aggregation": "seq_mean_token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
