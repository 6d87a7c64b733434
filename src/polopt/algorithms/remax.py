"""ReMax: REINFORCE against the reward of the most likely response to the same prompt.

    L = -1/B Σᵢ (rᵢ - r(ȳ)) log π(yᵢ),  ȳₜ = argmax π(· | x, ȳ_<ₜ),  rᵢ less β Σₜ k1 of the response

Li et al. 2023, arXiv:2310.10505, Algorithm 1. The KL is that of the sampled response alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.policy_row import policy_row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = policy_row(
    "remax",
    summary="the reward of the most likely response as baseline: one more decode a prompt",
    source="Li et al. 2023, arXiv:2310.10505, Algorithm 1",
    defaults={
        "rollout.group_size": 1,
        "credit.returns": "outcome",
        "credit.baseline": "greedy",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
        "kl.coefficient": 0.05,
        "kl.estimator": "k1",
        "kl.placement": "reward",
    },
)


def build(parts: Parts) -> Stage:
    """Sample a response, decode the most likely one, credit the first with what it earns more."""
    from polopt.algorithms.build import policy_stage

    return policy_stage(parts)
