"""Exploration noise."""

from jaxtyping import Float
from torch import Tensor


def ou_step(
    x: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    mu: Float[Tensor, "*shape"],
    theta: float,
    sigma: float,
    dt: float,
) -> Float[Tensor, "*shape"]:
    """``x + θ(μ - x)dt + σ√dt·N(0, 1)`` (Ornstein-Uhlenbeck; DDPG 1509.02971 has dt = 1).

    Noise per step shrinks with √dt: dt = 0.01 makes it ten times smaller.
    """
    return x + theta * (mu - x) * dt + sigma * dt**0.5 * noise
