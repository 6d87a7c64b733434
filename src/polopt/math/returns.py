"""From rewards to returns: one backward recursion serves tokens, steps, gaps and time limits.

A masked token is skipped: neither discount nor trace decay applies across it, and nothing resets
there. Termination is a discount of 0; truncation is a trace of 0 with the true next value.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.reduce import masked, row_sum, spread_rows


def discounted_sum(
    x: Float[Tensor, "B T"], decay: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """``yₜ = xₜ + decayₜ·yₛ`` with s the next valid column after t; 0 outside the mask."""
    x, decay = masked(x, mask), masked(decay, mask)
    out = torch.zeros_like(x)
    carry = x.new_zeros(x.shape[0])
    for t in reversed(range(x.shape[1])):
        carry = torch.where(mask[:, t], x[:, t] + decay[:, t] * carry, carry)
        out[:, t] = torch.where(mask[:, t], carry, 0.0)
    return out


def next_valid(
    values: Float[Tensor, "B T"], last_values: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The value at the next valid token; ``last_values`` after the last one."""
    values = masked(values, mask)
    out = torch.zeros_like(values)
    carry = last_values.to(values.dtype)
    for t in reversed(range(values.shape[1])):
        out[:, t] = carry
        carry = torch.where(mask[:, t], values[:, t], carry)
    return masked(out, mask)


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    discount: Float[Tensor, "B T"],
    trace: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimation (1506.02438, Eq. 16), with discount and trace per step.

    ``δₜ = rₜ + discountₜ·next_valueₜ - Vₜ``; ``Aₜ = δₜ + discountₜ·traceₜ·Aₜ₊₁``. trace 0 gives the
    TD error (Eq. 17), trace 1 the return less the value (Eq. 18).

    Returns:
        Advantages, and value targets ``A + V`` (before any normalisation of A).
    """
    values = masked(values, mask)
    delta = masked(rewards, mask) + masked(discount, mask) * masked(next_values, mask) - values
    advantages = discounted_sum(delta, masked(discount, mask) * masked(trace, mask), mask)
    return advantages, advantages + values


def token_gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float,
    lam: float | Float[Tensor, "B"],
    last_values: Float[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """``gae`` of a response: ``last_values`` is V after the last token, 0 after a sampled EOS."""
    if last_values is None:
        last_values = values.new_zeros(values.shape[0])
    trace = lam[:, None] if isinstance(lam, Tensor) else torch.full_like(values[:, :1], lam)
    return gae(
        rewards,
        values,
        next_valid(values, last_values, mask),
        torch.full_like(values, gamma),
        trace.to(values.dtype).expand(values.shape),
        mask,
    )


def step_gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    terminated: Bool[Tensor, "B T"],
    truncated: Bool[Tensor, "B T"],
    gamma: float,
    lam: float,
    mask: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """``gae`` of a control rollout; next_values are of the true next observation, not of a reset.

    Terminated: no bootstrap, trace cut. Truncated: bootstrap, trace cut. Both: termination wins.
    Steps outside ``mask`` (default: none) only reset the environment, and are skipped.
    """
    discount = torch.where(terminated, 0.0, torch.full_like(values, gamma))
    trace = torch.where(truncated, 0.0, torch.full_like(values, lam))
    mask = torch.ones_like(terminated) if mask is None else mask
    return gae(rewards, values, next_values, discount, trace, mask)


def reward_to_go(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float
) -> Float[Tensor, "B T"]:
    """``Gₜ = Σ_{k≥t} γ^{k-t} r_k`` (GPOMDP, Baxter & Bartlett 2001); γ counts valid tokens."""
    return discounted_sum(rewards, torch.full_like(rewards, gamma), mask)


def full_return(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float
) -> Float[Tensor, "B T"]:
    """``Σ_k γᵏ r_k`` on every token (REINFORCE, Williams 1992)."""
    weighted = masked(rewards, mask) * gamma ** (mask.cumsum(-1) - 1).to(rewards.dtype)
    return spread_rows(row_sum(weighted, mask), mask)


def outcome(rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """``Σ_k r_k`` on every token: the response is one action."""
    return spread_rows(row_sum(rewards, mask), mask)


def length_adaptive_lambda(
    response_lengths: Float[Tensor, "B"], alpha: float
) -> Float[Tensor, "B"]:
    """``λ(l) = clip(1 - 1/(α·l), 0, 1)`` (VAPO 2504.05118; negative before the clip if l < 1/α)."""
    return (1.0 - 1.0 / (alpha * response_lengths)).clamp(0.0, 1.0)
