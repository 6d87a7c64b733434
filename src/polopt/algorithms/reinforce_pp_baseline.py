"""REINFORCE++ with a baseline: centred in the group, normalised over the batch.

    Aᵢ = z(rᵢ - r̄ of the group),  z over all tokens of the batch
    L = 1/B Σᵢ 1/nᵢ Σₜ { max(-ρ A, -clip(ρ, 1-ε, 1+ε) A) + β k2 }

Hu et al. 2025, arXiv:2501.03262, Eq. 6 to 8.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "reinforce_pp_baseline",
    summary="group mean, normalised over the batch, k2 in the loss",
    source="Hu et al. 2025, arXiv:2501.03262, Eq. 6 to 8",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "batch_z",
        "credit.ddof": 0,
        "credit.epsilon": 1e-8,
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "seq_mean_token_mean",
        "kl.coefficient": 0.01,
        "kl.estimator": "k2",
        "kl.placement": "loss",
    },
)
