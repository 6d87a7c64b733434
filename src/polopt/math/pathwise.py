"""Pathwise gradients (DDPG, SAC): targets, losses, temperature, squashed Gaussians.

Q values are ``[B]`` or ``[K, B]`` of K critics, for B transitions of a replay buffer.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus


def ddpg_target(
    rewards: Float[Tensor, "B"],
    terminated: Bool[Tensor, "B"],
    next_q: Float[Tensor, "B"],
    gamma: float,
) -> Float[Tensor, "B"]:
    """``y = r + γ(1 - terminated)·Q′(s′, μ′(s′))`` (DDPG 1509.02971); a time limit bootstraps."""
    return rewards + gamma * torch.where(terminated, 0.0, next_q)


def sac_target(
    rewards: Float[Tensor, "B"],
    terminated: Bool[Tensor, "B"],
    next_q1: Float[Tensor, "B"],
    next_q2: Float[Tensor, "B"],
    next_logp: Float[Tensor, "B"],
    alpha: float | Float[Tensor, ""],
    gamma: float,
) -> Float[Tensor, "B"]:
    """``y = r + γ(1 - terminated)[min(Q₁′, Q₂′) - α·log π(a′|s′)]`` (SAC 1812.05905, Eq. 3, 5).

    a′ is freshly sampled from the current policy.
    """
    soft_value = torch.minimum(next_q1, next_q2) - alpha * next_logp
    return ddpg_target(rewards, terminated, soft_value, gamma)


def q_loss(q: Float[Tensor, "K B"], target: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """``Σₖ E[(Qₖ(s, a) - sg y)²]`` over K critics (SAC, DDPG; Stable-Baselines3 halves it)."""
    return (q - target.detach()).square().mean(-1).sum()


def ddpg_policy_loss(q: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """``-E[Q(s, μ(s))]``, whose gradient is ``∇μ ∇ₐQ`` (DPG, Silver et al. 2014, Theorem 1)."""
    return -q.mean()


def sac_policy_loss(
    q1: Float[Tensor, "B"],
    q2: Float[Tensor, "B"],
    logp: Float[Tensor, "B"],
    alpha: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """``E[α·log π(a|s) - min(Q₁, Q₂)(s, a)]``, a reparameterised (SAC 1812.05905, Eq. 9)."""
    return (alpha * logp - torch.minimum(q1, q2)).mean()


def soft_update(
    target: Float[Tensor, "*shape"], source: Float[Tensor, "*shape"], tau: float
) -> Float[Tensor, "*shape"]:
    """``φ′ ← τφ + (1-τ)φ′`` (DDPG 1509.02971); polyak of other libraries is 1-τ.

    Exactly φ at τ = 1 and φ′ at τ = 0.
    """
    return torch.lerp(target, source, tau)


def temperature_loss_none(
    log_alpha: Float[Tensor, ""], logp: Float[Tensor, "B"], target_entropy: float
) -> Float[Tensor, ""]:
    """0: the temperature is constant."""
    return torch.zeros_like(log_alpha)


def temperature_loss_log(
    log_alpha: Float[Tensor, ""], logp: Float[Tensor, "B"], target_entropy: float
) -> Float[Tensor, ""]:
    """``-log α·E[sg(log π + H̄)]``: the form of Stable-Baselines3."""
    return -(log_alpha * (logp + target_entropy).detach()).mean()


def temperature_loss_exp(
    log_alpha: Float[Tensor, ""], logp: Float[Tensor, "B"], target_entropy: float
) -> Float[Tensor, ""]:
    """``-α·E[sg(log π + H̄)]`` (SAC 1812.05905, Eq. 18): α times the gradient of the log form."""
    return -(log_alpha.exp() * (logp + target_entropy).detach()).mean()


def log_tanh_slope(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``log(1 - tanh²u)`` in a form that does not vanish for large u (SAC, App. C)."""
    return 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))


def tanh_gaussian(
    u: Float[Tensor, "*batch D"],
    mean: Float[Tensor, "*batch D"],
    log_std: Float[Tensor, "*batch D"],
) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
    """``a = tanh u``, ``log π(a) = Σ[log N(u) - log(1 - tanh²u)]`` (SAC 1812.05905, App. C)."""
    z = (u - mean) * (-log_std).exp()
    gaussian = -0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return u.tanh(), (gaussian - log_tanh_slope(u)).sum(-1)
