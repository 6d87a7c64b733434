"""REINFORCE++: reward to go with a KL penalty on every token, normalised over the batch.

    Aₜ = z(r - β Σ_{s≥t} (log π_old - log π_ref)ₛ),  z over all tokens of the batch
    L = 1/B Σᵢ 1/nᵢ Σₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A)

Hu et al. 2025, arXiv:2501.03262, Eq. 1, 4 and 5. A group may be a single response.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "reinforce_pp",
    summary="reward to go with a token-wise KL penalty, normalised over the batch",
    source="Hu et al. 2025, arXiv:2501.03262, Eq. 1, 4 and 5",
    values={
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
