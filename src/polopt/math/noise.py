"""Exploration noise: the next noise from the last one ``x`` and standard normal draws ``noise``."""

from jaxtyping import Float
from torch import Tensor


def no_noise(x: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0 at every step."""
    return noise * 0.0


def gaussian_noise(
    x: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], sigma: float
) -> Float[Tensor, "*shape"]:
    """``σ·N(0, 1)``, independent of the step before."""
    return sigma * noise


def ou_noise(
    x: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], theta: float, sigma: float
) -> Float[Tensor, "*shape"]:
    """``x + θ(0 - x) + σ·N(0, 1)``: :func:`ou_step` around 0 with dt = 1, as in the paper."""
    return ou_step(x, noise, x * 0.0, theta, sigma, dt=1.0)


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
