"""Importance-sampling diagnostics: how far the policy is from the one that sampled."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
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
class DriftByBucket:
    """:class:`Drift` of the tokens of each of K buckets, [K]; 0 where a bucket has none."""

    tokens: Tensor
    ess_fraction: Tensor
    k3: Tensor


def drift_by_bucket(
    logp: Float[Tensor, "B T"],
    logp_behaviour: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bucket: Int[Tensor, "B T"],
    buckets: int,
) -> DriftByBucket:
    """``drift`` of the tokens of each bucket; those beyond the last count into it.

    Sums are taken in float64, and without a look at the numbers: nothing waits for a device.
    """
    log_ratio = token_log_ratio(logp, logp_behaviour, mask).double()
    ratio = masked(safe_exp(log_ratio), mask)
    place = torch.where(mask, bucket.clamp(0, buckets - 1), buckets).flatten()

    def sums(x: Tensor) -> Tensor:
        return x.new_zeros(buckets + 1).index_add(0, place, x.flatten())[:buckets]

    tokens, squares = sums(mask.double()), sums(ratio.square())
    count = tokens.clamp(min=1)
    return DriftByBucket(
        tokens=tokens,
        ess_fraction=sums(ratio).square() / (count * torch.where(squares > 0, squares, 1.0)),
        k3=sums(k3(-log_ratio)) / count,
    )


def largest_ratios(
    logp: Float[Tensor, "B T"],
    logp_behaviour: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    one_in: int = 100,
) -> Float[Tensor, ""]:
    """The ratio ρ that one token in ``one_in`` exceeds at most (nearest rank); 1 of no token.

    With 100 it is the 99th percentile.
    """
    log_ratio = token_log_ratio(logp, logp_behaviour, mask)
    if not log_ratio.numel():
        return log_ratio.new_ones(())
    most = log_ratio.numel() // one_in + 1
    # Where no token is, none is among the largest of the n that are: n // one_in < n.
    top = torch.where(mask, log_ratio, -torch.inf).flatten().topk(most).values
    found = top.gather(0, (mask.sum() // one_in)[None])[0]
    return safe_exp(torch.where(mask.any(), found, 0.0))
