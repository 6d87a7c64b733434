"""One-step actor-critic: the TD error of the critic is the advantage.

    δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ),  L = -1/N Σᵢₜ δₜ log π(yₜ),  V learns rₜ + γ V(sₜ₊₁)

Sutton & Barto 2018, section 13.5. Unbiased only where V is the value of the policy: with a reward
at the last token alone, earlier tokens learn from the values of the critic alone.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "td_actor_critic",
    summary="one-step actor-critic: the TD error is the advantage",
    source="Sutton & Barto 2018, Reinforcement Learning, section 13.5",
    values={
        "credit.returns": "gae",
        "credit.lambda": 0.0,
        "credit.baseline": "value",
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
        "critic.epochs": 4,  # with 1 the critic lags behind, and most seeds collapse
    },
)
