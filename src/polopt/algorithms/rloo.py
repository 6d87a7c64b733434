"""RLOO: each response is compared with the mean of the others of its group.

    L = -1/B Σᵢ (Rᵢ - 1/(K-1) Σ_{j≠i} Rⱼ) Σₜ log π(yᵢₜ | ·)
    Rᵢ = rᵢ - β Σₜ (log π_old - log π_ref)ᵢₜ

Ahmadian et al. 2024, arXiv:2402.14740; the baseline is of Kool et al. 2019. The KL penalty is part
of the reward, so of the baseline as well.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "rloo",
    summary="leave-one-out baseline over the KL-shaped reward, no ratio",
    source="Ahmadian et al. 2024, arXiv:2402.14740; Kool et al. 2019",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "leave_one_out",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
        "kl.coefficient": 0.05,
        "kl.estimator": "k1",
        "kl.placement": "reward",
    },
)
