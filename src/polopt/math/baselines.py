"""Baselines: what is subtracted from a return to reduce the variance of the gradient.

The gradient stays unbiased as long as the baseline does not depend on the action.

Rows that are not ``valid`` (no score, no tokens) are in no statistic, and their baseline is 0. A
group whose rewards are all equal has exactly that number as its baseline, so advantages are exactly
0 and not a rounding residue (rule R6).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.math.reduce import group_is_constant, group_size, group_sum, widen


def has_peers(group: Int[Tensor, "B"], valid: Bool[Tensor, "B"]) -> Bool[Tensor, "B"]:
    """Valid rows of groups with at least two of them: one row alone has no comparison (rule R5)."""
    return valid & (group_size(valid, group) >= 2)


def group_mean(
    rewards: Float[Tensor, "B"], group: Int[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """``b = r̄_g``, the row itself included (GRPO 2402.03300): shrinks the gradient by (G-1)/G."""
    return length_weighted(rewards, torch.ones_like(rewards), group, valid)


def leave_one_out(
    rewards: Float[Tensor, "B"], group: Int[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """``bᵢ = (1/(K-1))Σ_{j≠i} rⱼ = r̄ - (rᵢ - r̄)/(K-1)`` (Kool et al. 2019; RLOO 2402.14740).

    ``r - b`` is K/(K-1) times ``r - r̄``: RLOO is Dr. GRPO's advantage, rescaled.
    """
    mean = group_mean(rewards, group, valid)
    others = (group_size(valid, group) - 1.0).clamp(min=1.0).to(mean.dtype)
    return torch.where(valid, mean - (widen(rewards) - mean) / others, 0.0)


def length_weighted(
    rewards: Float[Tensor, "B"],
    response_lengths: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """``b = Σⱼ lⱼrⱼ / Σⱼ lⱼ`` over the group (OPO 2505.23585): optimal if ‖∇log π(y)‖² ∝ l."""
    rewards = torch.where(valid, widen(rewards), 0.0)
    weight = torch.where(valid, response_lengths.to(rewards.dtype), 0.0)
    total = group_sum(weight, group)
    mean = group_sum(weight * rewards, group) / torch.where(total > 0, total, 1.0)
    return torch.where(group_is_constant(rewards, group, valid), rewards, mean) * valid


def centred(
    rewards: Float[Tensor, "B"], baseline: Float[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """``r - b`` where valid, else 0: an unscorable reward is NaN and must not travel (rule R7)."""
    return torch.where(valid, widen(rewards), 0.0) - torch.where(valid, baseline, 0.0)


def action_correction(
    distribution: Float[Tensor, "B T V"], action_values: Float[Tensor, "B T V"]
) -> Float[Tensor, "B T"]:
    """``Σ_a π(a|s)·Q(s, a)`` with Q held constant: its gradient makes a baseline b(s, a) unbiased.

    Q-Prop 1611.02247; Tucker et al. 1802.10031. Log-probs of -∞ add nothing.
    """
    chance = distribution.exp()
    return torch.where(chance > 0, chance * action_values.detach(), 0.0).sum(-1)


def ema_update(baseline: float, rewards: Float[Tensor, "N"], decay: float) -> float:
    """``b ← αb + (1-α)·mean(R)`` for the *next* batch, α the decay; rewards of NaN are left out."""
    scored = rewards[~torch.isnan(rewards)]
    if scored.numel() == 0:
        return baseline
    return decay * baseline + (1.0 - decay) * float(scored.mean())


def running_mean_update(
    baseline: float, seen: int, rewards: Float[Tensor, "N"]
) -> tuple[float, int]:
    """Mean of all rewards so far, for the *next* batch, and their count (2402.14740).

    Rewards of NaN are left out.
    """
    scored = rewards[~torch.isnan(rewards)]
    count = seen + scored.numel()
    return (baseline * seen + float(scored.sum())) / max(count, 1), count
