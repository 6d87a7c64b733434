"""DDPG: a deterministic policy that climbs the gradient of its critic, from a replay buffer.

    y = r + γ (1 - terminated) Q′(s′, μ′(s′)),  L_Q = E[(Q(s, a) - y)²],  L_μ = -E[Q(s, μ(s))]
    θ′ ← τ θ + (1 - τ) θ′ of both,  a = clip(μ(s) + x, ±1),  x ← x - θ x + σ N(0, 1)

Silver et al. 2014 (the gradient); Lillicrap et al. 2016, arXiv:1509.02971 (replay, target networks,
Ornstein-Uhlenbeck noise with dt = 1). Defaults are those of the paper, except for the random steps
at the start, the networks (400-300 there), the batch (64) and the weight decay of the critic.
"""

from __future__ import annotations

from polopt.recipe.row import replay_row

ROW = replay_row(
    "ddpg",
    summary="a deterministic policy climbs its critic, from a replay buffer (control)",
    source="Lillicrap et al. 2016, arXiv:1509.02971, Algorithm 1",
    stage="polopt.assembly.replay:deterministic_stage",
    uses=frozenset({"exploration"}),
    values={
        "exploration.noise": "ou",
        "exploration.sigma": 0.2,
        "exploration.theta": 0.15,
        "critic.tau": 0.001,
        "update.learning_rate": 1e-4,
        "update.batch_size": 128,
    },
    roles=("actor", "action_critic", "target_networks"),
    fixed={"target": "q", "pathwise": "deterministic"},
)
