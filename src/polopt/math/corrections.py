"""Importance weights and masks where the sampling policy is not π_old, the anchor of the ratio.

``uₜ = exp(logp_oldₜ - logp_rolloutₜ)`` corrects engine mismatch and staleness. Weights are
constants: differentiating ``w·log π`` through w would add the spurious term ``log π·∇w``.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.ratios import (
    safe_exp,
    sequence_mean_log_ratio,
    sequence_sum_log_ratio,
    token_log_ratio,
)
from polopt.math.reduce import masked, row_mean


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    return (x >= low) & (x <= high)


@torch.no_grad()
def token_truncated(
    logp_old: Float[Tensor, "B T"],
    logp_rollout: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float,
    low: float = 0.0,
) -> Float[Tensor, "B T"]:
    """``clip(uₜ, low, high)`` (truncated importance sampling, Yao et al. 2025)."""
    u = safe_exp(token_log_ratio(logp_old, logp_rollout, mask))
    return masked(u.clamp(low, high), mask)


@torch.no_grad()
def token_masked(
    logp_old: Float[Tensor, "B T"],
    logp_rollout: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float,
    low: float = 0.0,
) -> Float[Tensor, "B T"]:
    """``uₜ·1[low ≤ uₜ ≤ high]`` (IcePop 2510.18855)."""
    u = safe_exp(token_log_ratio(logp_old, logp_rollout, mask))
    return masked(u * _inside(u, low, high), mask)


@torch.no_grad()
def sequence_truncated(
    logp_old: Float[Tensor, "B T"],
    logp_rollout: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float,
    low: float = 0.0,
) -> Float[Tensor, "B T"]:
    """``clip(Πₜ uₜ, low, high)`` on every token of the row."""
    u = safe_exp(sequence_sum_log_ratio(logp_old, logp_rollout, mask))
    return masked(u.clamp(low, high), mask)


@torch.no_grad()
def sequence_masked(
    logp_old: Float[Tensor, "B T"],
    logp_rollout: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float,
    low: float = 0.0,
) -> Float[Tensor, "B T"]:
    """``Πₜ uₜ·1[low ≤ Πₜ uₜ ≤ high]`` on every token of the row."""
    u = safe_exp(sequence_sum_log_ratio(logp_old, logp_rollout, mask))
    return masked(u * _inside(u, low, high), mask)


@torch.no_grad()
def sequence_geometric_masked(
    logp_old: Float[Tensor, "B T"],
    logp_rollout: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float,
    low: float = 0.0,
) -> Float[Tensor, "B T"]:
    """``uₜ·1[low ≤ exp(mean log u) ≤ high]``: rows kept or dropped by their geometric mean."""
    mean = safe_exp(sequence_mean_log_ratio(logp_old, logp_rollout, mask))
    u = safe_exp(token_log_ratio(logp_old, logp_rollout, mask))
    return masked(u * _inside(mean, low, high), mask)


@torch.no_grad()
def m2po_mask(
    logp: Float[Tensor, "B T"],
    logp_old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau: float,
) -> Bool[Tensor, "B T"]:
    """Keep the mean of ``(log ρ)²`` over trust-region tokens at most τ (M2PO 2510.01161, Eq. 4).

    Trust-region tokens are those whose step grows the ratio further (A>0, ρ>1) or shrinks it
    further (A<0, ρ<1); the largest squares are dropped until the mean of the rest is at most τ.
    """
    log_ratio = token_log_ratio(logp, logp_old, mask)
    drifting = mask & (masked(advantages, mask) * log_ratio > 0)
    squares, order = log_ratio[drifting].square().sort()
    means = squares.cumsum(0) / torch.arange(1, squares.numel() + 1, device=squares.device)
    keep_sorted = means <= tau  # means of ascending squares ascend: keep the longest prefix
    keep = torch.empty_like(keep_sorted).scatter_(0, order, keep_sorted)
    return mask.masked_scatter(drifting, keep)


@torch.no_grad()
def opsm_mask(
    logp: Float[Tensor, "B T"],
    logp_old: Float[Tensor, "B T"],
    row_advantages: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    delta: float,
) -> Bool[Tensor, "B"]:
    """Drop a row iff A<0 and ``meanₜ(logp_old - logp) > δ`` (DeepSeek-V3.2 2512.02556)."""
    drift = row_mean(token_log_ratio(logp_old, logp, mask), mask)
    return ~((row_advantages < 0) & (drift > delta))
