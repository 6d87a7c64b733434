"""MaxRL: towards the likelihood of being right, log p, instead of p.

    L = -1/B Σᵢ Aᵢ Σₜ log π(yᵢₜ | ·),  Aᵢ = (rᵢ - r̄) / r̄,  0 where r̄ = 0

arXiv:2602.02710: unbiased for log p expanded to the order of the group. Rewards are at least 0.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "maxrl",
    summary="advantages divided by the mean reward of the group: the gradient of log p",
    source="MaxRL, arXiv:2602.02710",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_mean",
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
    },
)
