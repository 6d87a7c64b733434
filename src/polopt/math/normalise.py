"""Normalisation of advantages. Always stated: population, ddof, epsilon and where it sits.

Group functions scale advantages by a statistic of one reward a row; rows that are not ``valid`` are
in no statistic. Advantages of exactly 0, in a group without variance, stay 0 (rule R6).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.math.baselines import centred, group_mean
from polopt.math.reduce import group_size, group_sum, masked, widen

Denominator: TypeAlias = Callable[[Tensor, float], Tensor]


def std_plus(variance: Float[Tensor, "*shape"], eps: float) -> Float[Tensor, "*shape"]:
    """``√var + ε`` (REINFORCE++ 2501.03262; GRPO implementations)."""
    return variance.sqrt() + eps


def var_plus(variance: Float[Tensor, "*shape"], eps: float) -> Float[Tensor, "*shape"]:
    """``√(var + ε)`` (verl, TRL)."""
    return (variance + eps).sqrt()


def _divide(x: Tensor, denominator: Tensor) -> Tensor:
    """``x/denominator``; 0 where the denominator is 0: no spread, nothing to compare."""
    usable = denominator > 0
    return torch.where(usable, x / torch.where(usable, denominator, 1.0), 0.0)


def group_std(
    advantages: Float[Tensor, "B T"],
    rewards: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """``A/(σ_g + ε)``, with ``A = r - r̄_g`` that of GRPO (2402.03300, §4.1.2).

    The paper has neither ε nor ddof.
    """
    x = centred(rewards, group_mean(rewards, group, valid), valid)
    degrees = (group_size(valid, group) - ddof).to(x.dtype)
    variance = _divide(group_sum(x.square(), group), degrees)
    return _divide(advantages, std_plus(variance, eps)[:, None])


def group_steps(
    rewards: Float[Tensor, "B T"],
    group: Int[Tensor, "B"],
    ends: Bool[Tensor, "B T"],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """``(r - r̄_g)/(σ_g + ε)`` over all step rewards of a group, 0 where no step ends.

    Process supervision of GRPO (2402.03300, §4.1.3; the paper has neither ε nor ddof).
    """
    groups = group[:, None].expand(ends.shape)[ends]
    steps = widen(rewards)[ends]
    every = torch.ones_like(groups, dtype=torch.bool)
    x = centred(steps, group_mean(steps, groups, every), every)
    z = group_std(x[:, None], steps, groups, every, ddof=ddof, eps=eps)
    return torch.zeros_like(widen(rewards)).masked_scatter(ends, z)


def batch_std(
    advantages: Float[Tensor, "B T"],
    rewards: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """``A/(σ_B + ε)``, σ_B of all valid rewards of the batch (Lite-PPO 2508.08221)."""
    spread = centred(rewards, group_mean(rewards, torch.zeros_like(group), valid), valid)
    variance = _divide(spread.square().sum(), (valid.sum() - ddof).to(spread.dtype))
    return _divide(advantages, std_plus(variance, eps))


def group_mean_divide(
    advantages: Float[Tensor, "B T"],
    rewards: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
    *,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """``A/(r̄_g + ε)``, 0 where ``r̄_g ≤ 0`` (MaxRL 2602.02710); rewards are ≥ 0."""
    mean = group_mean(rewards, group, valid)[:, None]
    return torch.where(mean > 0, _divide(advantages, mean + eps), 0.0)


def whiten(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    ddof: int = 1,
    eps: float = 1e-8,
    denominator: Denominator = var_plus,
    shift_mean: bool = True,
) -> Float[Tensor, "*shape"]:
    """``(x - μ)/denominator(σ², ε)`` over all valid cells; 0 outside. Equal cells come out as 0.

    ``shift_mean=False`` adds μ back (whitening of rewards before GAE). The variance of no more than
    ``ddof`` cells is 0.
    """
    x = masked(x, mask)
    count = mask.sum()
    mean = x.sum() / count.clamp(min=1)
    low = torch.where(mask, x, torch.inf).amin() if x.numel() else mean
    high = torch.where(mask, x, -torch.inf).amax() if x.numel() else mean
    mean = torch.where(low == high, low, mean)  # exact where all cells are equal
    shifted = masked(x - mean, mask)
    variance = _divide(shifted.square().sum(), (count - ddof).to(x.dtype))
    out = _divide(shifted, denominator(variance, eps).expand(x.shape))
    return out if shift_mean else masked(out + mean, mask)
