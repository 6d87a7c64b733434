"""Policy gradient: every token of a response is credited with its reward.

    L = -1/B Σᵢ rᵢ Σₜ log π(yᵢₜ | xᵢ, yᵢ,<ₜ)

Williams 1992; Sutton et al. 2000, the policy gradient theorem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "pg",
    summary="the reward on every token: the theorem, and nothing else",
    source="Sutton et al. 2000, policy gradient theorem",
    defaults={
        "credit.returns": "outcome",
        "credit.baseline": "none",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
    },
    on_bodies={"episodes.whole": True, "update.learning_rate": 1e-2},
)


def build(parts: Parts) -> Stage:
    """Sample responses, raise the likelihood of each by its reward."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
