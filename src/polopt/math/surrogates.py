"""Surrogate losses ``ℓ[B, T]`` to be minimised, of one signature so that they can be exchanged.

``(logp, log_ratio, advantages, mask) -> (ℓ, events)``; numbers are keyword arguments, to be bound
with ``functools.partial``. Advantages are constants. ``events`` says at which tokens something
happened (where the clip is active, say), under the name of the metric that counts them. Inputs are
0 outside the mask; ℓ and events outside it are not read.
"""

from collections.abc import Callable
from typing import SupportsFloat, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.corrections import opsm_mask
from polopt.math.divergence import k3
from polopt.math.ratios import safe_exp
from polopt.math.reduce import lengths, row_mean, spread_rows

Events: TypeAlias = dict[str, Tensor]
Surrogate: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Events]]


def score_function(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -A·log π`` (Williams 1992; Sutton et al. 2000). The log-ratio is not read."""
    return -advantages * logp, {}


def importance_sampled(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -A·ρ`` (TRPO 1502.05477, Eq. 14): the surrogate without a bound."""
    return -advantages * safe_exp(log_ratio), {}


def clipped(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: float,
    high: float,
    dual: float | None = None,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = max(-Aρ, -A·clip(ρ, 1-ε_low, 1+ε_high))`` (PPO 1707.06347, Eq. 7).

    The gradient stops in two of four quadrants: A>0 with ρ>1+ε_high, and A<0 with ρ<1-ε_low. With
    ``dual`` c > 1, ``min(ℓ, -cA)`` where A<0 (Ye et al. 1912.09729): it stops for ρ>c too, which
    is the two-sided clip of INTELLECT-2 (2505.07291) with δ=c. Equal bounds give GRPO, unequal
    ones DAPO's clip-higher. Comparisons are strict: at a tie the gradient flows (rule R11).
    """
    ratio = safe_exp(log_ratio)
    free, bounded = -advantages * ratio, -advantages * ratio.clamp(1.0 - low, 1.0 + high)
    bites = bounded > free
    loss = torch.where(bites, bounded, free)
    events = {
        "clip_fraction_low": bites & (advantages < 0),
        "clip_fraction_high": bites & (advantages > 0),
    }
    if dual is not None:
        ceiling = -dual * advantages
        stops = (advantages < 0) & (loss > ceiling)
        loss = torch.where(stops, ceiling, loss)
        events["dual_clip_fraction"] = stops
    return loss, events


def kl_penalised(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    coefficient: SupportsFloat,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -Aρ + β(ρ - 1 - log ρ)`` (PPO 1707.06347, Eq. 8): pay for KL(π_old‖π), no clip.

    Takes token log-ratios. In a state whose actions π_old drew, ``E[ρ] = Σ_a π(a) = 1`` whatever π
    is, so that ``E[ρ - 1 - log ρ] = E[log(π_old/π)] = KL(π_old‖π)`` in value, and its gradient
    ``E[(ρ - 1)·∇log π] = ∇1 - E[∇log π] = ∇KL(π_old‖π)``. Unlike ``-log ρ`` alone, which has the
    same mean, each term is at least 0 and has slope 0 at ρ = 1.
    """
    penalty = float(coefficient) * k3(-log_ratio)  # k3 of π_old against π
    return penalty - advantages * safe_exp(log_ratio), {}


def clipped_unless_stale(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: float,
    high: float,
    drift: float,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``clipped``, and 0 where A<0 and ``meanₜ(log π_old - log π) > δ`` (DeepSeek-V3.2 2512.02556).

    Takes token log-ratios. Rows that are left out stay in every divisor.
    """
    loss, events = clipped(logp, log_ratio, advantages, mask, low=low, high=high)
    old, row = torch.zeros_like(log_ratio), row_mean(advantages, mask)
    keep = spread_rows(opsm_mask(log_ratio, old, row, mask, delta=drift).to(loss.dtype), mask)
    return loss * keep, events | {"stale_fraction": mask & (keep == 0)}


def capped_weight(
    log_ratio: Float[Tensor, "*shape"], *, weight_max: float, weight_min: float = 0.0
) -> Float[Tensor, "*shape"]:
    """``sg(clip(ρ, w_min, w_max))``: a weight, so no gradient flows through it."""
    return safe_exp(log_ratio).clamp(weight_min, weight_max).detach()


def cispo(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    weight_max: float,
    weight_min: float = 0.0,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -sg(clip(ρ, w_min, w_max))·A·log π`` (MiniMax-M1 2506.13585, Eq. 4-5).

    The bounds are absolute values of the weight, not distances from 1; no token loses its gradient.
    """
    ratio = safe_exp(log_ratio)
    weight = capped_weight(log_ratio, weight_min=weight_min, weight_max=weight_max)
    events = {
        "clip_fraction_low": mask & (ratio < weight_min),
        "clip_fraction_high": mask & (ratio > weight_max),
    }
    return -weight * advantages * logp, events


def sapo(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau_positive: float,
    tau_negative: float,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -A·(4/τ)·σ(τ(ρ-1))``, τ by the sign of A (SAPO 2511.20347): a soft gate for the clip.

    At ρ = 1 the value is -2A/τ and the gradient is -A.
    """
    tau = torch.where(advantages > 0, tau_positive, torch.full_like(advantages, tau_negative))
    return -advantages * 4.0 / tau * torch.sigmoid(tau * (safe_exp(log_ratio) - 1.0)), {}


def gmpo_log_ratio(
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: float,
    high: float,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``(1/n)Σₜ cₜ``, ``cₜ = s·min(s·log ρₜ, s·clip(log ρₜ, -ε_low, ε_high))``, ``s = sgn A``.

    GMPO (2507.20673): the clip is one-sided, in log space, and taken before the mean.
    """
    sign = advantages.sign()
    bounded = log_ratio.clamp(-low, high)
    bites = sign * log_ratio > sign * bounded
    mean = row_mean(torch.where(bites, bounded, log_ratio), mask)
    events = {
        "clip_fraction_low": bites & (advantages < 0),
        "clip_fraction_high": bites & (advantages > 0),
    }
    return spread_rows(mean, mask), events


def gmpo(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: float,
    high: float,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``ℓ = -A·exp((1/n)Σₜ cₜ)`` on every token (GMPO 2507.20673); takes token log-ratios."""
    mean, events = gmpo_log_ratio(log_ratio, advantages, mask, low=low, high=high)
    return -advantages * safe_exp(mean), events


def opmd(
    logp: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau: float,
) -> tuple[Float[Tensor, "B T"], Events]:
    """``Σₜ ℓ = -A·log π(y) + (τ/2)(log π(y)/π_old(y))²`` (Kimi k1.5 2501.12599, Eq. 3).

    Takes the log-ratio of the sequence; its square is spread evenly, so that the sum over the row
    is the loss of the sequence, with gradient ``-A + τ·log-ratio`` on every token.
    """
    square = log_ratio.square() / lengths(mask).clamp(min=1)[:, None]
    return -advantages * logp + tau / 2.0 * square, {}
