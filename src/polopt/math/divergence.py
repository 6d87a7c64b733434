"""Estimators of ``KL(π‖π_ref)`` from samples of π, and exact divergences of two distributions.

Where an estimator stands decides what its gradient is: in the reward k1 is right, in the loss k2
(2510.01555, 2512.21852).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.ratios import MAX_LOG_RATIO, safe_exp, token_log_ratio
from polopt.math.reduce import row_sum

Estimator: TypeAlias = Callable[[Tensor], Tensor]


def k1(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``k1 = d``, with ``d = log π - log π_ref``: unbiased, signed (Schulman 2020)."""
    return log_ratio


def k2(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``k2 = d²/2``: biased in value, right in gradient as a loss (Schulman 2020)."""
    return log_ratio.square() / 2.0


def k3(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``k3 = e⁻ᵈ - 1 + d ≥ 0`` (Schulman 2020; GRPO 2402.03300, Eq. 4).

    As a loss its gradient is that of the forward KL(π_ref‖π). d is clamped to [-20, 20] (rule R3),
    the value is not: a cap of 10, as others have, stops the gradient below π/π_ref = 0.07.
    """
    d = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-d) + d  # expm1: in float32 the difference is lost for small d otherwise


ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}


def importance_corrected(
    estimate: Float[Tensor, "*shape"], log_ratio_old: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """``ρ·k`` with gradient through ρ = π/π_old (DeepSeek-V3.2 2512.02556).

    For samples of π_old, ``∂(ρ·k3)/∂log π = ρ(k3 + 1 - e⁻ᵈ)`` has expectation ∇KL(π‖π_ref).
    """
    return safe_exp(log_ratio_old) * estimate


def response_kl(
    logp: Float[Tensor, "B T"], logp_ref: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """``KL(π‖π_ref)`` of whole responses: ``Σₜ k1`` of each, mean over those with tokens, in nats.

    The unit of Ziegler 1909.08593; a mean over tokens is smaller by the length (rule R4: 0 where
    no response has tokens).
    """
    sums = row_sum(k1(token_log_ratio(logp, logp_ref, mask)), mask)
    return sums.sum() / mask.any(-1).sum().clamp(min=1)


def entropy_of_logs(log_p: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """``H(p) = -Σ p·log p`` of log-probabilities, in nats; a term with p = 0 is 0."""
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def kl_divergence_of_logs(
    log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch"]:
    """``KL(p‖q) = Σ p·(log p - log q)`` of log-probabilities; a term with p = 0 is 0.

    Terms with p = 0 have no gradient, so that -∞ in both gives no NaN in any derivative.
    """
    possible = log_p > -torch.inf
    log_p, log_q = (torch.where(possible, x, 0.0) for x in (log_p, log_q))
    return torch.where(possible, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def gaussian_kl_divergence(
    mean_p: Float[Tensor, "*batch D"],
    log_std_p: Float[Tensor, "*batch D"],
    mean_q: Float[Tensor, "*batch D"],
    log_std_q: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    """``KL(p‖q) = Σ [log(σ_q/σ_p) + (σ_p² + (μ_p - μ_q)²)/(2σ_q²) - ½]`` of diagonal Gaussians.

    With ``d = log(σ_p/σ_q)`` and equal means it is ``½(e²ᵈ - 1) - d``, exactly 0 for equal
    distributions. An invertible map of the variable, such as tanh, does not change the KL.
    """
    d, z = log_std_p - log_std_q, (mean_p - mean_q) * (-log_std_q).exp()
    return (torch.expm1(2.0 * d) / 2.0 - d + z.square() / 2.0).sum(-1)
