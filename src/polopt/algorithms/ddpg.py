"""DDPG: a deterministic policy that climbs the gradient of its critic, from a replay buffer.

    y = r + γ (1 - terminated) Q′(s′, μ′(s′)),  L_Q = E[(Q(s, a) - y)²],  L_μ = -E[Q(s, μ(s))]
    θ′ ← τ θ + (1 - τ) θ′ of both,  a = clip(μ(s) + x, ±1),  x ← x - θ x + σ N(0, 1)

Silver et al. 2014 (the gradient); Lillicrap et al. 2016, arXiv:1509.02971 (replay, target networks,
Ornstein-Uhlenbeck noise with dt = 1), whose numbers these are but for the random steps at first,
the networks (400-300 there), the batch of 64 and the weight decay of its critic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.bodies import ALWAYS, OFF_POLICY
from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="ddpg",
    summary="a deterministic policy climbs its critic, from a replay buffer (bodies)",
    source="Lillicrap et al. 2016, arXiv:1509.02971, Algorithm 1",
    requires=frozenset({"body"}),
    uses=OFF_POLICY | {"exploration"},
    idle=frozenset(),
    defaults={
        "network.activation": "relu",
        "episodes.environments": 1,
        "episodes.steps": 200,
        "replay.size": 1_000_000,
        "replay.start_steps": 1000,
        "replay.updates_per_step": 1.0,
        "exploration.noise": "ou",
        "exploration.sigma": 0.2,
        "exploration.theta": 0.15,
        "credit.gamma": 0.99,
        "critic.learning_rate": 1e-3,
        "critic.tau": 0.001,
        "update.learning_rate": 1e-4,
        "update.batch_size": 128,
        "run.steps": 100,
    },
    rollout="replay",
    coordination="stepwise",
    update="adam",
    roles=("actor", "action_critic", "target_networks"),
    always=ALWAYS,
    fixed={"target": "q", "pathwise": "deterministic"},
    on_bodies={},
)


def build(parts: Parts) -> Stage:
    """Act with noise, store, and after each step improve critic and policy on what is stored."""
    from polopt.algorithms.build.off_policy import deterministic_stage

    return deterministic_stage(parts)
