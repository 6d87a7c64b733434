"""The figures of a step that are shown while a run goes on, by their short names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN: Sequence[Mapping[str, str]] = (  # metrics and labels; the first of each that a line has
    {
        "reward/mean": "reward",
        "return/mean": "return",
        "policy/nll": "loss",  # the loss of a policy gradient says nothing: its value is near 0
        "reward_model/loss": "loss",
        "policy/loss": "loss",
    },
    {"kl/measured": "kl", "policy/kl": "kl", "policy/approx_kl": "kl"},
    {"policy/grad_norm": "gradient norm", "reward_model/grad_norm": "gradient norm"},
    {"policy/entropy": "entropy"},
    {
        "accuracy": "accuracy",
        "policy/pair_accuracy": "pair accuracy",
        "reward_model/pair_accuracy": "pair accuracy",
    },
    {"episode/length": "length", "response/length": "length"},
)


def figures(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and value of those that a line of metrics has, in order."""
    first = ((names, next((name for name in names if name in values), None)) for names in SHOWN)
    return [(names[name], values[name]) for names, name in first if name is not None]


def short(value: float) -> str:
    """Three places, or fewer of a large number: 0.250, 23.1, 1,231; 1.4e-04 of a small one."""
    return (
        f"{value:.1e}"
        if 0 < abs(value) < 0.001
        else f"{value:.3f}"
        if abs(value) < 10
        else f"{value:,.1f}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )
