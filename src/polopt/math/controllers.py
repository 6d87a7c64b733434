"""Coefficients that follow a metric. Plain numbers in, plain numbers out."""


def ziegler_update(beta: float, kl: float, target: float, samples: float, horizon: float) -> float:
    """``β(1 + e·n/horizon)``, ``e = clip(KL/target - 1, -0.2, 0.2)`` (Ziegler 1909.08593, §2.2).

    Args:
        beta: The coefficient now.
        kl: Measured in the unit of ``target`` (there: the mean over responses of the token *sum*).
        target: The KL to hold.
        samples: Responses in the batch.
        horizon: Samples over which a persistent error of 1 would double the coefficient.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * samples / horizon)


def ppo_update(beta: float, kl: float, target: float) -> float:
    """Halve below ``target/1.5``, double above ``1.5·target`` (PPO 1707.06347, §4)."""
    if kl < target / 1.5:
        return beta / 2.0
    return beta * 2.0 if kl > 1.5 * target else beta
