"""SAC: a policy that earns and stays undecided, from two critics and a replay buffer.

    y = r + γ (1 - terminated) [min(Q₁′, Q₂′)(s′, a′) - α log π(a′|s′)],  a′ ~ π(·|s′)
    L_Q = Σₖ E[(Qₖ(s, a) - y)²],  φ′ ← τ φ + (1 - τ) φ′
    L_π = E[α log π(a|s) - min(Q₁, Q₂)(s, a)],  a = tanh(μ + σ N(0, 1)),  L_α = -log α E[log π + H̄]

Haarnoja et al. 2018, arXiv:1801.01290, and with a learned temperature arXiv:1812.05905, whose
numbers these are but for the random steps at first and the networks (256-256 there); the form of
the temperature is that of Stable-Baselines3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.bodies import ALWAYS, OFF_POLICY
from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="sac",
    summary="maximum entropy from a replay buffer: two critics, a learned temperature (bodies)",
    source="Haarnoja et al. 2018, arXiv:1812.05905, Eq. 5, 9 and 18",
    requires=frozenset({"body"}),
    uses=OFF_POLICY | {"temperature"},
    idle=frozenset(),
    defaults={
        "network.activation": "relu",
        "episodes.environments": 1,
        "episodes.steps": 200,
        "replay.size": 1_000_000,
        "replay.start_steps": 1000,
        "replay.updates_per_step": 1.0,
        "temperature.initial": 1.0,
        "temperature.loss": "log",
        "credit.gamma": 0.99,
        "critic.learning_rate": 3e-4,
        "critic.tau": 0.005,
        "update.learning_rate": 3e-4,
        "update.batch_size": 256,
        "run.steps": 100,
    },
    rollout="replay",
    coordination="stepwise",
    update="adam",
    roles=("actor", "twin_critics", "target_networks"),
    always=ALWAYS,
    fixed={"target": "soft_q", "pathwise": "soft"},
    on_bodies={},
)


def build(parts: Parts) -> Stage:
    """Act, store, and after each step improve critics, policy and temperature on what is stored."""
    from polopt.algorithms.build.off_policy import soft_stage

    return soft_stage(parts)
