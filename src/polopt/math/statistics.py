"""Importance-sampling diagnostics: how far the policy is from the one that sampled."""

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
