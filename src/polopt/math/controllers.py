"""Controllers of the KL coefficient: ``(β, measured KL, samples) -> β`` for the next batch.

Plain numbers in, plain numbers out; targets are bound by keyword.
"""

from collections.abc import Callable
from typing import TypeAlias

Controller: TypeAlias = Callable[[float, float, float], float]


def fixed(beta: float, kl: float, samples: float) -> float:
    """``β``, whatever is measured."""
    return beta


def ziegler_update(
    beta: float, kl: float, samples: float, *, target: float, horizon: float
) -> float:
    """``β(1 + e·n/horizon)``, ``e = clip(KL/target - 1, -0.2, 0.2)`` (Ziegler 1909.08593, §2.2).

    Args:
        beta: The coefficient now.
        kl: Measured in the unit of ``target`` (there: the mean over responses of the token *sum*).
        samples: n, responses in the batch; below 5·horizon, or β could turn negative.
        target: The KL to hold, above 0.
        horizon: Samples over which β changes by a fifth at most, above 0.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * samples / horizon)


def ppo_update(beta: float, kl: float, samples: float, *, target: float) -> float:
    """Halve below ``target/1.5``, double above ``1.5·target`` (PPO 1707.06347, §4)."""
    if kl < target / 1.5:
        return beta / 2.0
    return beta * 2.0 if kl > 1.5 * target else beta
