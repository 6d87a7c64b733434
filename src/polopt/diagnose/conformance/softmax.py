"""Exact facts about a softmax policy over a few actions, where every expectation is a finite sum.

``p = softmax(z)`` and ``∇_z log p_a = e_a - p``: the smallest policy on which estimators of the KL,
baselines and trust regions can be checked without sampling noise. Only golden cases use them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from polopt.math.divergence import Estimator
from polopt.math.estimation import average, average_gradient, in_loss, in_reward, log_ratios


def kl_divergence(
    p: Float[Tensor, "*batch V"], q: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch"]:
    """``KL(p‖q) = Σ p·log(p/q)`` of full distributions; a term with p = 0 is 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def reverse_kl_gradient(p: Float[Tensor, "V"], q: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """``∂KL(p‖q)/∂z`` for ``p = softmax(z)``: ``p·(log(p/q) - KL(p‖q))``."""
    return torch.xlogy(p, p) - torch.xlogy(p, q) - p * kl_divergence(p, q)


def forward_kl_gradient(p: Float[Tensor, "V"], q: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """``∂KL(q‖p)/∂z`` for ``p = softmax(z)``: ``p - q``."""
    return p - q


def expected_estimator(
    p: Float[Tensor, "V"], q: Float[Tensor, "V"], estimator: Estimator
) -> tuple[Float[Tensor, ""], Float[Tensor, "V"], Float[Tensor, "V"]]:
    """Expected value and gradients of an estimator of ``KL(p‖q)``, with ``p = softmax(z)``.

    Returns:
        ``E_p[k]``; the gradient in z when k is a loss, ``E_p[k′(d)·∇log p]``; and the gradient when
        k is a (detached) reward penalty, ``E_p[k·∇log p]``, where ``∇_z log p_a = e_a - p``.
    """
    d = log_ratios(p.log(), q.log())
    return (
        average(p, estimator(d)),
        average_gradient(p, in_loss(estimator)(d)),
        average_gradient(p, in_reward(estimator)(d)),
    )


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


def gradient_of(function: Callable[[Tensor], Tensor], at: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """``∇f`` by autograd, detached."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at), at)
    return gradient


def hessian_product(
    function: Callable[[Tensor], Tensor], at: Float[Tensor, "N"], damping: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """``v ↦ ∇(∇f·v) + damping·v``; of the mean KL at θ_old this is the Fisher matrix times v."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(at), at, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(slope @ v, at, retain_graph=True)
        return image + damping * v

    return product
