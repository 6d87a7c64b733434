"""SAC: return plus entropy are maximised, with two critics and a replay buffer.

    y = r + γ (1 - terminated) [min(Q₁′, Q₂′)(s′, a′) - α log π(a′|s′)],  a′ ~ π(·|s′)
    L_Q = Σₖ E[(Qₖ(s, a) - y)²],  φ′ ← τ φ + (1 - τ) φ′
    L_π = E[α log π(a|s) - min(Q₁, Q₂)(s, a)],  a = tanh(μ + σ N(0, 1)),  L_α = -log α E[log π + H̄]

Haarnoja et al. 2018, arXiv:1801.01290, and with a learned temperature arXiv:1812.05905. Defaults
are those of the latter, except for the random steps at the start and the networks (256-256 there);
the loss of the temperature is that of Stable-Baselines3.
"""

from __future__ import annotations

from polopt.recipe.row import replay_row

ROW = replay_row(
    "sac",
    summary="maximum entropy from a replay buffer: two critics, a learned temperature (control)",
    source="Haarnoja et al. 2018, arXiv:1812.05905, Eq. 5, 9 and 18",
    stage="polopt.assembly.replay:soft_stage",
    uses=frozenset({"temperature"}),
    values={
        "temperature.initial": 1.0,
        "temperature.loss": "log",
        "critic.learning_rate": 3e-4,
        "critic.tau": 0.005,
        "update.learning_rate": 3e-4,
        "update.batch_size": 256,
    },
    roles=("actor", "twin_critics", "target_networks"),
    fixed={"target": "soft_q", "pathwise": "soft"},
)
