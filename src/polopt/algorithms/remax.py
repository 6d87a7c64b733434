"""ReMax: REINFORCE against the reward of the most likely response to the same prompt.

    L = -1/B Σᵢ (rᵢ - r(ȳ)) log π(yᵢ),  ȳₜ = argmax π(· | x, ȳ_<ₜ),  rᵢ less β Σₜ k1 of the response

Li et al. 2023, arXiv:2310.10505, Algorithm 1. The KL is that of the sampled response alone.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "remax",
    summary="the reward of the most likely response as baseline: one more decode a prompt",
    source="Li et al. 2023, arXiv:2310.10505, Algorithm 1",
    values={
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
