"""Token rewards ``r_tok[B, T]`` out of scores, penalties and log-probs. Parts add up."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.math.divergence import Estimator
from polopt.math.ratios import token_log_ratio
from polopt.math.reduce import last_token, lengths, masked, spread_rows


def terminal_reward(
    scores: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    clip: tuple[float, float] | None = None,
) -> Float[Tensor, "B T"]:
    """``r_tok[last valid token] = clip(score)``, 0 elsewhere."""
    bounded = scores if clip is None else scores.clamp(*clip)
    return spread_rows(bounded, mask) * last_token(mask)


def kl_penalty(
    logp_old: Float[Tensor, "B T"],
    logp_ref: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
    estimator: Estimator,
) -> Float[Tensor, "B T"]:
    """``rₜ = -β·k(log π_old - log π_ref)ₜ`` (Ziegler 1909.08593; InstructGPT 2203.02155)."""
    return masked(-beta * estimator(token_log_ratio(logp_old, logp_ref, mask)), mask)


def overlong_penalty(
    response_lengths: Float[Tensor, "B"], l_max: float, l_cache: float, factor: float = 1.0
) -> Float[Tensor, "B"]:
    """``factor·clip(((L_max - L_cache) - l)/L_cache, -1, 0)`` (DAPO 2503.14476, Eq. 13)."""
    return factor * ((l_max - l_cache - response_lengths) / l_cache).clamp(-1.0, 0.0)


def overlong_reward(
    mask: Bool[Tensor, "B T"],
    l_max: float,
    l_cache: float,
    factor: float,
    dtype: torch.dtype,
) -> Float[Tensor, "B T"]:
    """``overlong_penalty`` of each row's trained tokens, at its last one."""
    return terminal_reward(overlong_penalty(lengths(mask).to(dtype), l_max, l_cache, factor), mask)


def length_reward(
    response_lengths: Float[Tensor, "B"],
    right: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """``λ = ½ - (l - l_min)/(l_max - l_min)`` of the group where right, ``min(0, λ)`` where wrong.

    Kimi k1.5 2501.12599, section 2.3.3: short right responses gain, long ones lose, and a wrong one
    gains nothing by being short. 0 where all lengths of the group are equal, and where ``right`` is
    NaN (unknown); rows that are not ``valid`` are in no minimum or maximum.
    """
    same = (group[:, None] == group[None, :]) & valid[None, :]
    longest = torch.where(same, response_lengths, -torch.inf).amax(-1)
    shortest = torch.where(same, response_lengths, torch.inf).amin(-1)
    spread = torch.where(valid, longest - shortest, 0.0)
    share = (response_lengths - shortest) / torch.where(spread > 0, spread, 1.0)
    lam = torch.where(spread > 0, 0.5 - share, 0.0)
    return torch.where(right == 1, lam, torch.where(right == 0, lam.clamp(max=0.0), 0.0))


def spread_discounted(
    scores: Float[Tensor, "B"], mask: Bool[Tensor, "B T"], gamma: float
) -> Float[Tensor, "B T"]:
    """``γ^{n-1-t}·R`` on every token: the *return* of a terminal reward, not a reward to sum.

    Summed again, a long response would earn ``R(1-γⁿ)/(1-γ)``.
    """
    age = (lengths(mask)[:, None] - mask.cumsum(-1)).to(scores.dtype)
    return masked(spread_rows(scores, mask) * gamma**age, mask)


def spread_normalised(
    scores: Float[Tensor, "B"], mask: Bool[Tensor, "B T"], gamma: float
) -> Float[Tensor, "B T"]:
    """``γ^{n-1-t}·R / Σₛ γ^{n-1-s}``: discounted towards the end, with row sum R."""
    share = spread_discounted(torch.ones_like(scores), mask, gamma)
    total = share.sum(-1, keepdim=True)
    return spread_rows(scores, mask) * share / torch.where(total > 0, total, 1.0)


def spread_uniform(scores: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """``R/n`` on every token, with row sum R (γ = 1 of ``spread_normalised``)."""
    return spread_normalised(scores, mask, 1.0)
