"""OPO: on-policy steps with the baseline that is optimal where gradients grow with length.

    L = -1/N Σᵢₜ (rᵢ - b) log π(yᵢₜ | ·),  b = Σⱼ lⱼ rⱼ / Σⱼ lⱼ

Hao et al. 2025, arXiv:2505.23585: exactly on-policy, no KL, no entropy bonus.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "opo",
    summary="length-weighted baseline, exactly on-policy, no KL",
    source="Hao et al. 2025, arXiv:2505.23585",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "length_weighted",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "token_mean",
    },
)
