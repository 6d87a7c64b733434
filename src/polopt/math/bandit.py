"""Exact facts on a softmax bandit, where every expectation is a finite sum.

``p = softmax(z)`` and ``∇_z log p_a = e_a - p``: the smallest place where a baseline, a bias or a
trust region can be looked at without sampling noise.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from polopt.math.divergence import kl_divergence


def scores_of(p: Float[Tensor, "V"]) -> Float[Tensor, "V V"]:
    """Row a is ``∇_z log p_a = e_a - p``."""
    return torch.eye(len(p), dtype=p.dtype, device=p.device) - p


def gradient_moments(
    p: Float[Tensor, "V"], rewards: Float[Tensor, "V"], baseline: Float[Tensor, ""]
) -> tuple[Float[Tensor, "V"], Float[Tensor, ""]]:
    """Mean and total variance of the one-sample estimator ``(R - b)·∇log p``."""
    samples = (rewards - baseline)[:, None] * scores_of(p)
    mean = p @ samples
    return mean, (p[:, None] * (samples - mean).square()).sum()


def optimal_baseline(p: Float[Tensor, "V"], rewards: Float[Tensor, "V"]) -> Float[Tensor, ""]:
    """``b* = E[‖∇log p‖²R]/E[‖∇log p‖²]`` (Weaver & Tao 1301.2315; Greensmith 2004)."""
    weight = p * scores_of(p).square().sum(-1)
    return (weight * rewards).sum() / weight.sum()


def policy_gradient(p: Float[Tensor, "V"], values: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """``E_p[v(a)·∇log p_a]``, which is also ``∇_z E_p[v]`` for a fixed v."""
    return p @ (values[:, None] * scores_of(p))


def softmax_step_functions(
    old: Float[Tensor, "N"], advantages: Float[Tensor, "V"], fixed_last: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """``p_old``, ``L(θ) = Σ p_θ(a)·A(a)`` and ``θ ↦ KL(p_old‖p_θ)``, for ``trust_region_step``.

    Args:
        old: θ_old, one logit an action.
        advantages: Of each action.
        fixed_last: The last logit is the constant 0 and not a parameter.
    """

    def policy(theta: Tensor) -> Tensor:
        logits = torch.cat([theta, theta.new_zeros(1)]) if fixed_last else theta
        return logits.softmax(-1)

    p_old = policy(old.detach())
    return (
        p_old,
        lambda theta: (policy(theta) * advantages).sum(),
        lambda theta: kl_divergence(p_old, policy(theta)),
    )
