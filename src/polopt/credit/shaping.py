"""Shapers: the reward of every token. Each returns ``r_tok[B, T]``; their parts add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsFloat

import torch
from torch import Tensor

from polopt.math import shaping
from polopt.math.divergence import Estimator, k1
from polopt.math.reduce import lengths, masked
from polopt.types import Experience

Shaper = Callable[[Experience, Tensor], Tensor]
"""``(experience, mask) -> r_tok[B, T]``; the parts of all shapers are added."""

Spread = Callable[[Tensor, Tensor], Tensor]


def terminal(clip: tuple[float, float] | None = None) -> Shaper:
    """The reward of the response at its last valid token, clipped to ``clip`` if given."""
    return lambda experience, mask: shaping.terminal_reward(experience.rewards, mask, clip)


def earned(experience: Experience, mask: Tensor) -> Tensor:
    """The reward of every environment step."""
    if experience.step_rewards is None:
        raise ValueError("what was earned reads step_rewards; the experience has none")
    return masked(experience.step_rewards, mask)


def as_given() -> Shaper:
    """Step rewards at the tokens where they were given, all others at the last token."""
    at_the_end = terminal()

    def shape(experience: Experience, mask: Tensor) -> Tensor:
        rewards = experience.token_rewards
        if rewards is None:
            return at_the_end(experience, mask)
        return masked(rewards, mask & ~torch.isnan(rewards))

    return shape


def spread(how: Spread, clip: tuple[float, float] | None = None) -> Shaper:
    """The reward spread over the tokens, by a ``spread_*`` function of ``polopt.math.shaping``."""

    def shape(experience: Experience, mask: Tensor) -> Tensor:
        scores = experience.rewards if clip is None else experience.rewards.clamp(*clip)
        return how(scores, mask)

    return shape


def kl_penalty(beta: SupportsFloat, estimator: Estimator = k1) -> Shaper:
    """``-β·k(log π_old - log π_ref)`` on every token: KL in the reward, fixed during the update.

    An adaptive β is read at each batch.
    """

    def shape(experience: Experience, mask: Tensor) -> Tensor:
        if experience.logp_old is None or experience.logp_ref is None:
            raise ValueError("KL in the reward reads logp_old and logp_ref; one of them is missing")
        logp, reference = experience.logp_old, experience.logp_ref
        return shaping.kl_penalty(logp, reference, mask, float(beta), estimator)

    return shape


def length(weight: float) -> Shaper:
    """``weight·λ`` at the last token: rewards short right responses, not long ones (Kimi k1.5)."""

    def shape(experience: Experience, mask: Tensor) -> Tensor:
        if experience.right is None:
            raise ValueError("the length reward reads right; the experience has none")
        tokens = lengths(mask).to(experience.rewards.dtype)
        gained = shaping.length_reward(tokens, experience.right, experience.group, mask.any(-1))
        return shaping.terminal_reward(weight * gained, mask)

    return shape


def overlong(l_max: float, l_cache: float, factor: float = 1.0) -> Shaper:
    """A penalty at the last token of rows with more than ``l_max - l_cache`` trained tokens."""

    def shape(experience: Experience, mask: Tensor) -> Tensor:
        dtype = experience.rewards.dtype
        return shaping.overlong_reward(mask, l_max, l_cache, factor, dtype)

    return shape
