"""DeepSeek-V3.2's GRPO: an unbiased KL estimate, and stale bad responses are left out.

    L = 1/B Σᵢ 1/nᵢ Σₜ { Mᵢ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A) + β ρ k3 }
    Mᵢ = 0 where Aᵢ < 0 and 1/nᵢ Σₜ (log π_old - log π)ᵢₜ > δ, else 1

DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556. It publishes neither β nor δ: β is that of
DeepSeekMath, δ is ours.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "dsv32_grpo",
    summary="GRPO with importance-corrected KL and a mask for stale bad responses",
    source="DeepSeek-V3.2, arXiv:2512.02556",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "opsm",
        "objective.drift": 0.5,
        "objective.aggregation": "seq_mean_token_mean",
        "kl.coefficient": 0.04,
        "kl.estimator": "k3",
        "kl.placement": "loss",
        "kl.importance_corrected": True,
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
