"""REINFORCE++: reward to go with a KL penalty on every token, normalised over the batch.

    Aₜ = z(r - β Σ_{s≥t} (log π_old - log π_ref)ₛ),  z over all tokens of the batch
    L = 1/B Σᵢ 1/nᵢ Σₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A)

Hu et al. 2025, arXiv:2501.03262, Eq. 1, 4 and 5. A group may be a single response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "reinforce_pp",
    summary="reward to go with a token-wise KL penalty, normalised over the batch",
    source="Hu et al. 2025, arXiv:2501.03262, Eq. 1, 4 and 5",
    defaults={
        "credit.returns": "reward_to_go",
        "credit.baseline": "none",
        "credit.normalisation": "batch_z",
        "credit.ddof": 0,
        "credit.epsilon": 1e-8,
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "seq_mean_token_mean",
        "kl.coefficient": 0.01,
        "kl.estimator": "k1",
        "kl.placement": "reward",
    },
)


def build(parts: Parts) -> Stage:
    """Sample responses, normalise their rewards to go over the batch, take clipped steps."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
