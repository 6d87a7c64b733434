"""The columns of rows that learn from a replay buffer alone, and what stands in them."""

from __future__ import annotations

from collections.abc import Mapping

from polopt.algorithms.choice import Choice

_PATHWISE, _MATH = "polopt.objective.pathwise:", "polopt.math."

OFF_POLICY: Mapping[str, Mapping[str, Choice]] = {
    "exploration": {
        "none": Choice(_MATH + "noise:no_noise", "a = μ(s)"),
        "gaussian": Choice(
            _MATH + "noise:gaussian_noise",
            "a = clip(μ(s) + σ N(0, 1), ±1)",
            arguments={"sigma": "exploration.sigma"},
        ),
        "ou": Choice(
            _MATH + "noise:ou_noise",
            "a = clip(μ(s) + x, ±1), x ← x - θ x + σ N(0, 1)",
            arguments={"sigma": "exploration.sigma", "theta": "exploration.theta"},
        ),
    },
    "target": {
        "q": Choice(
            _PATHWISE + "deterministic_q_loss",
            "y = r + γ (1 - terminated) Q′(s′, μ′(s′)), L = E[(Q(s, a) - y)²]",
            _MATH + "pathwise:ddpg_target",
        ),
        "soft_q": Choice(
            _PATHWISE + "soft_q_loss",
            "y = r + γ (1 - terminated) [min Q′(s′, a′) - α log π(a′|s′)], "
            "L = Σₖ E[(Qₖ(s, a) - y)²]",
            _MATH + "pathwise:sac_target",
        ),
    },
    "pathwise": {
        "deterministic": Choice(
            _PATHWISE + "deterministic_policy_loss",
            "L = -E[Q(s, μ(s))]",
            _MATH + "pathwise:ddpg_policy_loss",
        ),
        "soft": Choice(
            _PATHWISE + "soft_policy_loss",
            "L = E[α log π(a|s) - min Q(s, a)], a = tanh(μ + σ N(0, 1))",
            _MATH + "pathwise:sac_policy_loss",
        ),
    },
    "temperature": {
        "none": Choice(_MATH + "pathwise:temperature_loss_none", "α"),
        "log": Choice(_MATH + "pathwise:temperature_loss_log", "L = -log α E[log π + H̄]"),
        "exp": Choice(_MATH + "pathwise:temperature_loss_exp", "L = -α E[log π + H̄]"),
    },
}
