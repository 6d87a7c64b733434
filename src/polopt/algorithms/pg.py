"""Policy gradient: the advantage of every token is the reward of its response.

    L = -1/B Σᵢ rᵢ Σₜ log π(yᵢₜ | xᵢ, yᵢ,<ₜ)

Williams 1992; Sutton et al. 2000, the policy gradient theorem.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "pg",
    summary="policy gradient theorem: the reward on every token, no baseline",
    source="Sutton et al. 2000, policy gradient theorem",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "none",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
    },
    control={"episodes.whole": True, "update.learning_rate": 1e-2},
)
