"""Log-ratios ``log π_θ - log π_old`` at the level of tokens or of sequences.

All return ``[B, T]`` (a sequence-level ratio stands on every token of its row), 0 outside the mask.
They stay logarithms until ``safe_exp``: sums of logarithms do not overflow as products do.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.reduce import masked, row_mean, row_sum, spread_rows

MAX_LOG_RATIO = 20.0  # verl and OpenRLHF clamp here: e²⁰ ≈ 5e8 still multiplies safely in float32


def safe_exp(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``exp`` of the log-ratio clamped to [-20, 20]; zero gradient outside (rule R3)."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def no_log_ratio(
    logp: Float[Tensor, "B T"], logp_old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """``log 1``: the score function is used as it is, and ``logp_old`` is not read."""
    return torch.zeros_like(masked(logp, mask))


def token_log_ratio(
    logp: Float[Tensor, "B T"], logp_old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """``log ρₜ = logpₜ - logp_oldₜ`` (PPO 1707.06347): low variance, ignores the state ratio."""
    return masked(logp, mask) - masked(logp_old, mask)


def sequence_sum_log_ratio(
    logp: Float[Tensor, "B T"], logp_old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """``Σₜ log ρₜ``: right for a response seen as one action; its variance explodes with length."""
    return spread_rows(row_sum(token_log_ratio(logp, logp_old, mask), mask), mask)


def sequence_mean_log_ratio(
    logp: Float[Tensor, "B T"], logp_old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """``(1/nᵢ)Σₜ log ρₜ`` (GSPO 2507.18071, Eq. 7): a geometric mean, not an importance weight."""
    return spread_rows(row_mean(token_log_ratio(logp, logp_old, mask), mask), mask)
