"""Columns that one family of rows has: of those with a replay buffer, of those on preferences."""

from __future__ import annotations

from collections.abc import Mapping

from polopt.algorithms.choice import Choice

_MATH = "polopt.math."
_PATHWISE = "polopt.objective.pathwise:"
_PREFERENCE = "polopt.objective.preference:"

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

PREFERENCE: Mapping[str, Mapping[str, Choice]] = {
    "preference": {
        "sigmoid": Choice(
            _PREFERENCE + "sigmoid",
            "ℓ = -(1-ε) log σ(β h - m) - ε log σ(-β h - m), mean over the pairs of a prompt",
            _MATH + "preference:dpo_loss",
            {
                "beta": "preference.beta",
                "label_smoothing": "preference.label_smoothing",
                "margin": "preference.margin",
            },
            factory=True,
        ),
        "hinge": Choice(
            _PREFERENCE + "hinge",
            "ℓ = max(0, 1 - β h), mean over the pairs of a prompt",
            _MATH + "preference:hinge_loss",
            {"beta": "preference.beta"},
            factory=True,
        ),
        "ipo": Choice(
            _PREFERENCE + "ipo",
            "ℓ = (h - 1/(2β))², mean over the pairs of a prompt",
            _MATH + "preference:ipo_loss",
            {"beta": "preference.beta"},
            factory=True,
        ),
        "plackett_luce": Choice(
            _PREFERENCE + "plackett_luce",
            "ℓ = -Σᵢ log(e^{β sᵢ} / (e^{β sᵢ} + Σ_{j worse} e^{β sⱼ}))",
            _MATH + "preference:plackett_luce_loss",
            {"beta": "preference.beta"},
            factory=True,
        ),
    },
}
