"""PRIME: process rewards from a language model that learns from outcomes, online.

    qₜ = β (log π_φ - log π_ref)ₜ
    Aₜ = Σ_{s≥t} γ^{s-t} [qₛ - mean over the others of q̄] + r - mean over the others of r
    π_φ: -r log σ(z) - (1-r) log(1-σ(z)),  z = Σₜ qₜ

Cui et al. 2025, arXiv:2502.01456, Eq. 5 and Algorithm 1; the implicit process reward is that of
Yuan et al. 2024, arXiv:2412.01981. What the released code computes instead is
``credit.returns = "prime_reference"`` with ``credit.normalisation = "batch_z"``.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "prime",
    summary="process rewards from a model that learns from outcomes, online",
    source="Cui et al. 2025, arXiv:2502.01456, Eq. 5, Algorithm 1",
    values={
        "rollout.group_size": 4,
        "rollout.resample_rounds": 4,
        "rollout.accuracy_min": 0.2,
        "rollout.accuracy_max": 0.8,
        "credit.returns": "prime",
        "credit.baseline": "leave_one_out",
        "credit.normalisation": "none",
        "credit.epsilon": 1e-8,
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "token_mean",
        "update.learning_rate": 5e-7,
    },
)
