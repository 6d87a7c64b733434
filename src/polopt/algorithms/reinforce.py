"""REINFORCE: the return from a token on, less a baseline.

    L = -1/B Σᵢₜ (Gᵢₜ - b) log π(yᵢₜ | xᵢ, yᵢ,<ₜ),  Gₜ = Σ_{k≥t} γ^{k-t} rₖ

Williams 1992; for language models Ahmadian et al. 2024, arXiv:2402.14740, section 2.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "reinforce",
    summary="reward to go less a baseline; return and baseline are choices",
    source="Williams 1992; Ahmadian et al. 2024, arXiv:2402.14740, section 2",
    values={
        "credit.returns": "reward_to_go",
        "credit.baseline": "constant",
        "credit.normalisation": "none",
        "credit.baseline_constant": 0.5,  # halfway between the rewards 0 and 1
        "objective.ratio": "none",
        "objective.aggregation": "seq_mean_token_sum",
    },
    control={
        "episodes.whole": True,
        "credit.baseline": "none",
        "credit.normalisation": "batch_z",  # return to go, standardised over the batch
        "credit.epsilon": 1e-8,
        "update.learning_rate": 1e-2,
    },
)
