"""What estimators of ``KL(p‖q)`` are worth: averages over the vocabulary, nothing is drawn.

    p = softmax(z),   d_a = log p_a - log q_a,   ∇_z log p_a = e_a - p
    E_p[w·∇_z log p] = p·(w - E_p[w])

An estimator k(d) acts by a weight w on ∇log p: in the reward w = k, in the loss ``w = ∂k/∂log p``.
That of ∇KL(p‖q) is d itself. 2510.01555, 2512.21852; golden case ``kl/expectations_and_gradients``.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.divergence import Estimator, importance_corrected
from polopt.math.ratios import MAX_LOG_RATIO

Weight: TypeAlias = Callable[[Tensor], Tensor]
"""``d[..., V] -> w[..., V]``, what ∇log p is multiplied by where a token is drawn."""


def in_reward(estimator: Estimator) -> Weight:
    """``w = k``: a penalty of the reward is fixed, and multiplies the gradient of log p."""
    return estimator


def in_loss(estimator: Estimator, *, corrected: bool = False) -> Weight:
    """``w = ∂k/∂log p``; corrected, ``∂(ρ·k)/∂log p`` at ρ = 1, where the policy has not moved."""

    def weight(log_ratio: Tensor) -> Tensor:
        with torch.enable_grad():
            step = torch.zeros_like(log_ratio).requires_grad_()
            k = estimator(log_ratio.detach() + step)
            k = importance_corrected(k, step) if corrected else k
            (slope,) = torch.autograd.grad(k.sum(), step)
        return slope

    return weight


PLACES: dict[str, Callable[[Estimator], Weight]] = {
    "reward": in_reward,
    "loss": in_loss,
    "corrected loss": lambda estimator: in_loss(estimator, corrected=True),
}


def log_ratios(
    log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch V"]:
    """``d = log p - log q`` of whole distributions; 0 where p = 0: no such token is drawn."""
    return torch.where(log_p > -torch.inf, log_p - log_q, 0.0)


def average(p: Float[Tensor, "*batch V"], x: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """``E_p[x] = Σ p·x``; a term with p = 0 is 0, whatever x is."""
    return torch.where(p > 0, p * x, 0.0).sum(-1)


def average_gradient(
    p: Float[Tensor, "*batch V"], weight: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch V"]:
    """``E_p[w·∇_z log p] = p·(w - E_p[w])``, the expected gradient in the logits."""
    return torch.where(p > 0, p * (weight - average(p, weight)[..., None]), 0.0)


def in_dead_zone(
    estimator: Estimator, log_ratio: Float[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    """Where a clamp holds the estimator: |d| is beyond 20 and its slope is 0."""
    beyond = log_ratio.abs() >= MAX_LOG_RATIO
    return beyond & (in_loss(estimator)(log_ratio) == 0) if beyond.any() else beyond
