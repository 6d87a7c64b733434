"""What to look at: how far two policies are apart, and on which tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.divergence import k3
from polopt.math.ratios import safe_exp, token_log_ratio
from polopt.math.reduce import masked


@dataclass(frozen=True)
class Drift:
    """How far samples of one policy are from another, as means over tokens; 0-dimensional."""

    mean_ratio: Tensor  # E[ρ], 1 in expectation
    ess_fraction: Tensor  # (Σρ)²/(N·Σρ²): share of samples that count
    k1: Tensor  # E[-log ρ], estimates KL(π_behaviour‖π)
    k3: Tensor  # the same, never negative
    m2: Tensor  # E[(log ρ)²]


def drift(
    logp: Float[Tensor, "B T"],
    logp_behaviour: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Drift:
    """Importance-sampling diagnostics of tokens of the behaviour policy; 0 if there are none.

    ESS by Kong 1992; M₂ of M2PO (2510.01161).
    """
    log_ratio = token_log_ratio(logp, logp_behaviour, mask)
    ratio = masked(safe_exp(log_ratio), mask)
    count = mask.sum().clamp(min=1)
    squares = ratio.square().sum()
    return Drift(
        mean_ratio=ratio.sum() / count,
        ess_fraction=ratio.sum().square() / (count * torch.where(squares > 0, squares, 1.0)),
        k1=-log_ratio.sum() / count,
        k3=k3(-log_ratio).sum() / count,
        m2=log_ratio.square().sum() / count,
    )


@dataclass(frozen=True)
class TokenShift:
    """What training changed, token by token; 0 outside the mask."""

    delta_logp: Tensor  # [B, T] log π_trained - log π_base
    ratio: Tensor  # [B, T]
    delta_p: Tensor  # [B, T] difference of probabilities
    top: Tensor  # [K] int64, places in the flattened [B, T] of the largest |Δlog π|
    mean_abs: Tensor  # [] mean |Δlog π| over tokens


def token_shift(
    logp_base: Float[Tensor, "B T"],
    logp_trained: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    top: int = 3,
) -> TokenShift:
    """Compare two policies on the same tokens (teacher forcing)."""
    delta = token_log_ratio(logp_trained, logp_base, mask)
    before, after = masked(logp_base, mask).exp(), masked(logp_trained, mask).exp()
    size = torch.where(mask, delta.abs(), -1.0).flatten()
    count = int(mask.sum())
    return TokenShift(
        delta_logp=delta,
        ratio=masked(safe_exp(delta), mask),
        delta_p=masked(after - before, mask),
        top=size.argsort(descending=True, stable=True)[: min(top, count)],
        mean_abs=delta.abs().sum() / max(count, 1),
    )


def exploration_probability(p: Float[Tensor, "*shape"], samples: int) -> Float[Tensor, "*shape"]:
    """``1 - p^K``: the chance that K samples leave a path taken with probability p."""
    return -torch.expm1(samples * p.log())
