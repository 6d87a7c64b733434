"""Action-value actor-critic: the critic's Q(s, a) of a token is its advantage.

    L = -1/N Σᵢₜ Q(sₜ, yₜ) log π(yₜ),  Q learns rₜ + γ Q(sₜ₊₁, yₜ₊₁) (SARSA)

Sutton et al. 2000, policy gradient theorem; Konda & Tsitsiklis 2000. Unbiased only where Q is the
action value of the policy.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "q_actor_critic",
    summary="actor-critic on action values: Q(s, a) of a token is its advantage",
    source="Sutton et al. 2000; Konda & Tsitsiklis 2000",
    values={
        "credit.returns": "q",
        "credit.baseline": "none",
        "credit.normalisation": "none",
        "objective.ratio": "none",
        "objective.aggregation": "token_mean",
        "critic.clip": 0.0,
    },
    control={
        "episodes.environments": 32,
        "episodes.steps": 16,
        "credit.normalisation": "batch_z",
        "credit.epsilon": 1e-8,
        "critic.epochs": 4,
        "critic.learning_rate": 3e-3,
    },
)
