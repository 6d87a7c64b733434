"""Advantage actor-critic: the return less the value of the state, one step a batch.

    Aₜ = Gₜ - V(sₜ),  L = -1/N Σᵢₜ Aₜ log π(yₜ),  V learns Gₜ

Mnih et al. 2016, A3C, arXiv:1602.01783, section 4: returns to the end of the response, which is
λ = 1; a λ below 1 leans on the critic.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "a2c",
    summary="advantage actor-critic: the return less the value of the state",
    source="Mnih et al. 2016, A3C, arXiv:1602.01783, section 4",
    values={
        "credit.returns": "gae",
        "credit.lambda": 1.0,
        "credit.baseline": "value",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "token_mean",
        "critic.clip": 0.0,
    },
    control={
        "episodes.environments": 32,
        "episodes.steps": 16,
        "credit.lambda": 0.95,
        "update.learning_rate": 2e-3,
        "critic.learning_rate": 2e-3,
        "critic.epochs": 4,  # with 1, the policy of one seed in five does not improve
    },
)
