"""PPO: GAE from a critic, KL in the reward, epochs of clipped steps on each batch.

    Aₜ = z(Σₗ (γλ)ˡ δₜ₊ₗ),  rₜ = -β (log π_old - log π_ref)ₜ + 1[t last] r
    L = 1/N Σᵢₜ max(-ρ A, -clip(ρ, 1-ε, 1+ε) A),  V learns A + V_old, not normalised

Schulman et al. 2017, arXiv:1707.06347, Eq. 7; for language models Stiennon et al. 2020,
arXiv:2009.01325. Defaults on text are those of lm-human-preferences and TRL (Huang et al. 2024,
arXiv:2403.17031).
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "ppo",
    summary="GAE from a critic, KL in the reward, epochs of clipped steps",
    source="Schulman et al. 2017, arXiv:1707.06347, Eq. 7",
    values={
        "rollout.group_size": 1,
        "credit.returns": "gae",
        "credit.baseline": "value",
        "credit.normalisation": "batch_z",
        "credit.epsilon": 1e-8,
        "objective.ratio": "token",
        "objective.bound": "clip",
        "objective.aggregation": "token_mean",
        "kl.coefficient": 0.05,
        "kl.estimator": "k1",
        "kl.placement": "reward",
        "update.epochs": 4,
    },
    control={"update.epochs": 10, "update.minibatches": 8},
)
