"""Baselines and normalisations of the advantage, by one reward per sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsFloat

import torch
from torch import Tensor

from polopt.math import baselines, normalise
from polopt.math.normalise import Denominator, var_plus
from polopt.math.reduce import lengths, masked
from polopt.math.returns import reward_to_go
from polopt.types import Experience

Baseline = Callable[[Tensor, Experience, Tensor], tuple[Tensor, Tensor]]
"""``(totals[B], experience, mask) -> (b[B, 1] or [B, T], keep[B])``; totals are row sums of r_tok,
``keep`` is False for rows for which the baseline is not defined: they leave the mask."""

Normalise = Callable[[Tensor, Tensor, Experience, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(advantages, totals, experience, mask, scored) -> (advantages[B, T], keep[B])``; ``mask`` holds
the tokens still in the loss, ``scored[B]`` the rows that had a reward at all."""


def no_baseline(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``b = 0``."""
    return torch.zeros_like(totals)[:, None], mask.any(-1)


def inside(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``b = 0``: the return has the mean of the other rows subtracted; a group of one leaves."""
    return torch.zeros_like(totals)[:, None], baselines.has_peers(experience.group, mask.any(-1))


def constant(value: SupportsFloat) -> Baseline:
    """``b = value``: a constant, or a moving average as it is before each batch."""

    def baseline(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(totals, float(value))[:, None], mask.any(-1)

    return baseline


def group_mean(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the group, the row itself included (GRPO); a group of one leaves."""
    rows = mask.any(-1)
    b = baselines.group_mean(totals, experience.group, rows)
    return b[:, None], baselines.has_peers(experience.group, rows)


def leave_one_out(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the other rows of the group (RLOO); a group of one leaves."""
    rows = mask.any(-1)
    b = baselines.leave_one_out(totals, experience.group, rows)
    return b[:, None], baselines.has_peers(experience.group, rows)


def length_weighted(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the group weighted by trained tokens (OPO); a group of one leaves."""
    rows = mask.any(-1)
    weight = lengths(mask).to(totals.dtype)
    b = baselines.length_weighted(totals, weight, experience.group, rows)
    return b[:, None], baselines.has_peers(experience.group, rows)


def greedy(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Reward of the greedy response to the same prompt (ReMax); NaN: the row leaves."""
    if experience.greedy_rewards is None:
        raise ValueError("the greedy baseline reads greedy_rewards; the experience has none")
    keep = mask.any(-1) & ~torch.isnan(experience.greedy_rewards)
    return masked(experience.greedy_rewards, keep)[:, None], keep


def value(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``b = V(sₜ)`` for returns that do not contain it yet (GAE does)."""
    if experience.values is None:
        raise ValueError("the value baseline reads values; the experience has none")
    return masked(experience.values, mask), mask.any(-1)


def action(totals: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``b = Q(sₜ, aₜ)``: biased, unless the loss has ``polopt.objective.ActionCorrection``."""
    return value(totals, experience, mask)


def unchanged(
    advantages: Tensor, totals: Tensor, experience: Experience, mask: Tensor, scored: Tensor
) -> tuple[Tensor, Tensor]:
    """No normalisation."""
    return advantages, mask.any(-1)


def scaled(by: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Normalise:
    """Advantages over a statistic of the rewards, a function of ``polopt.math.normalise``.

    Args:
        by: ``(advantages[B, T], rewards[B], group[B], valid[B]) -> [B, T]``. The rewards of a group
            of one are among them; it leaves after that, since it has no spread.
    """

    def normaliser(
        advantages: Tensor, totals: Tensor, experience: Experience, mask: Tensor, scored: Tensor
    ) -> tuple[Tensor, Tensor]:
        keep = mask.any(-1) & baselines.has_peers(experience.group, scored)
        return by(advantages, totals, experience.group, scored), keep

    return normaliser


def group_steps(ddof: int = 1, eps: float = 1e-6, gamma: float = 1.0) -> Normalise:
    """Step rewards normalised over their group, then summed from each token on (GRPO, §4.1.3)."""

    def normaliser(
        advantages: Tensor, totals: Tensor, experience: Experience, mask: Tensor, scored: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = experience.token_rewards
        if given is None:
            raise ValueError("group_steps reads token_rewards; the experience has none")
        ends = mask & ~torch.isnan(given)
        z = normalise.group_steps(given, experience.group, ends, ddof=ddof, eps=eps)
        return reward_to_go(z, mask, gamma), mask.any(-1)

    return normaliser


def batch_z(ddof: int = 1, eps: float = 1e-8, denominator: Denominator = var_plus) -> Normalise:
    """z-score over the tokens that are still in the loss (PPO, REINFORCE++)."""

    def normaliser(
        advantages: Tensor, totals: Tensor, experience: Experience, mask: Tensor, scored: Tensor
    ) -> tuple[Tensor, Tensor]:
        z = normalise.whiten(advantages, mask, ddof=ddof, eps=eps, denominator=denominator)
        return z, mask.any(-1)

    return normaliser
