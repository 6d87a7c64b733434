"""OPO: on-policy steps with the baseline that is optimal where gradients grow with length.

    L = -1/N Σᵢₜ (rᵢ - b) log π(yᵢₜ | ·),  b = Σⱼ lⱼ rⱼ / Σⱼ lⱼ

Hao et al. 2025, arXiv:2505.23585: exactly on-policy, no KL, no entropy bonus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "opo",
    summary="length-weighted baseline, exactly on-policy, no KL",
    source="Hao et al. 2025, arXiv:2505.23585",
    defaults={
        "credit.returns": "outcome",
        "credit.baseline": "length_weighted",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "token_mean",
    },
)


def build(parts: Parts) -> Stage:
    """Sample groups, compare with the length-weighted mean, take one on-policy step."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
