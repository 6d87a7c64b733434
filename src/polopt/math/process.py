"""Dense rewards of an implicit process reward model (PRIME 2502.01456).

``q[B, T] = β·log(π_φ/π_ref)`` per token (``preference.implicit_reward``). Rows that are not
``valid`` are in no statistic; a group with fewer than two valid rows has advantage 0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from polopt.math.baselines import centred, has_peers, leave_one_out
from polopt.math.reduce import group_size, last_token, masked, row_mean, row_sum, spread_rows
from polopt.math.returns import discounted_sum, reward_to_go


def _outcome_advantage(
    outcome: Float[Tensor, "B"], group: Int[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """``r_oⁱ - (1/(K-1))Σ_{j≠i} r_oʲ``; 0 without peers."""
    return centred(outcome, leave_one_out(outcome, group, valid), has_peers(group, valid))


def prime_advantage(
    q: Float[Tensor, "B T"],
    outcome: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    *,
    gamma: float,
    process_coefficient: float = 1.0,
    outcome_coefficient: float = 1.0,
) -> Float[Tensor, "B T"]:
    """``Σ_{s≥t} γ^{s-t}[qₛⁱ - (1/(K-1))Σ_{j≠i} q̄ʲ] + r_oⁱ - (1/(K-1))Σ_{j≠i} r_oʲ`` (Eq. 5).

    q̄ʲ is the token mean of response j; the outcome stands undiscounted on every token.
    """
    valid = labelled(outcome, mask)
    inside = mask & has_peers(group, valid)[:, None]
    others = leave_one_out(row_mean(q, mask), group, valid)
    process = reward_to_go(masked(q, mask) - others[:, None], inside, gamma)
    result = outcome_coefficient * _outcome_advantage(outcome, group, valid)
    return process_coefficient * process + spread_rows(result, inside)


def prime_reference_advantage(
    q: Float[Tensor, "B T"],
    outcome: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    *,
    gamma: float,
    process_coefficient: float = 1.0,
    outcome_coefficient: float = 1.0,
) -> Float[Tensor, "B T"]:
    """What PRIME's released code computes instead of Eq. 5 (commit 18ad596f).

    ``Σ_{s≥t} γ^{s-t}[qₛⁱ·K/(K-1) - (1/(K-1))Σⱼ q̄ʲ]``, the own mean included; the outcome
    advantage stands at the last token and is discounted from there.
    """
    valid = labelled(outcome, mask)
    inside = mask & has_peers(group, valid)[:, None]
    k = group_size(valid, group).to(q.dtype).clamp(min=2.0)[:, None]
    mean = row_mean(q, mask)
    everyone = leave_one_out(mean, group, valid)[:, None] + mean[:, None] / (k - 1.0)
    process = masked(q, mask) * k / (k - 1.0) - everyone
    result = _outcome_advantage(outcome, group, valid)
    terminal = spread_rows(result, mask) * last_token(mask)
    rewards = process_coefficient * process + outcome_coefficient * terminal
    return reward_to_go(rewards, inside, gamma)


def prime_batch_norm(q: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """``q / (max|Σ_{s≥t} qₛ| + 1e-6)`` over the batch (PRIME's released code)."""
    inside = masked(q, mask)
    sums = discounted_sum(inside, torch.ones_like(inside), mask).abs()
    return inside / (sums.amax() + 1e-6) if sums.numel() else inside


def prime_cross_entropy(
    log_ratio: Float[Tensor, "B T"],
    outcome: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float,
    rows: Int[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "B"], Float[Tensor, ""]]:
    """``-E[r_o·log σ(z) + (1-r_o)·log(1-σ(z))]``, ``z = β Σₜ log(π_φ/π_ref)`` (Alg. 1, line 8).

    Args:
        log_ratio: per token.
        outcome: 1 or 0; NaN: not known.
        mask: tokens of the responses.
        beta: of the implicit reward.
        rows: divisor of the sum, counted over the whole optimiser step; default: rows counted here.

    Returns:
        z, and the mean over rows with an outcome and at least one token.
    """
    logits = beta * row_sum(log_ratio, mask)
    valid = labelled(outcome, mask)
    target = masked(outcome, valid)
    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    count = valid.sum() if rows is None else rows
    return logits, masked(losses, valid).sum() / count.clamp(min=1)


def labelled(outcome: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B"]:
    """Rows that the cross entropy counts: an outcome is known, and there is a token."""
    return mask.any(-1) & ~torch.isnan(outcome)
