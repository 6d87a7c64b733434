"""Masked and grouped sums, and the weights that turn token losses into one number.

Divisors are counted over the whole optimiser step: an aggregation is a function of the mask that
returns ``weights[B, T] = ∂L/∂ℓ``, so that ``L = Σ weights·ℓ``. Slices of the same weights serve the
micro-batches, and splitting, padding and row order change nothing.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Aggregation: TypeAlias = Callable[[Tensor, Tensor, int | None, torch.dtype], Tensor]


def widen(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision becomes float32; float32 and float64 stay (rule R2)."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without(
    logits: Float[Tensor, "n V"], rows: Bool[Tensor, "n"], tokens: Sequence[int]
) -> Float[Tensor, "n V"]:
    """Logits under which some rows cannot draw some tokens: -inf there.

    They are written over if nobody differentiates them: a copy takes longer than all the rest.
    """
    if logits.requires_grad:
        logits = logits.clone()
    for token in tokens:  # a list of them would be copied to a device, and waited for
        logits[:, token].masked_fill_(rows, -torch.inf)
    return logits


def masked(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x`` where ``mask``, else 0: before any arithmetic, so NaN outside never leaks (rule R1)."""
    return torch.where(mask, widen(x), 0.0)


def lengths(mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B"]:
    """``nᵢ = Σₜ mask[i, t]``, the trained tokens of each row."""
    return mask.sum(-1)


def row_sum(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """``Σₜ x[i, t]`` over the mask."""
    return masked(x, mask).sum(-1)


def row_mean(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """``(1/nᵢ)Σₜ x[i, t]`` over the mask; 0 for an empty row."""
    return row_sum(x, mask) / lengths(mask).clamp(min=1)


def spread_rows(x: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """One number a row on every token of its mask, 0 elsewhere."""
    return masked(x[:, None].expand(mask.shape), mask)


def last_token(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last valid token of each row (not at column T - 1)."""
    later = mask.flip(-1).cumsum(-1).flip(-1)  # valid tokens from t on
    return mask & (later == 1)


def group_sum(x: Float[Tensor, "B"], group: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """For each row, the sum of ``x`` over its group; rows of a group need not be adjacent."""
    _, index = torch.unique(group, return_inverse=True)
    return x.new_zeros(x.shape).index_add(0, index, x)[index]


def group_size(valid: Bool[Tensor, "B"], group: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """For each row, how many valid rows its group has."""
    return group_sum(valid.to(torch.get_default_dtype()), group)


def group_is_constant(
    x: Float[Tensor, "B"], group: Int[Tensor, "B"], valid: Bool[Tensor, "B"]
) -> Bool[Tensor, "B"]:
    """``max = min`` over the valid rows of each row's group (rule R6); True where none is valid."""
    _, index = torch.unique(group, return_inverse=True)
    high = torch.full_like(x, -torch.inf).scatter_reduce(
        0, index, torch.where(valid, x, -torch.inf), "amax"
    )
    low = torch.full_like(x, torch.inf).scatter_reduce(
        0, index, torch.where(valid, x, torch.inf), "amin"
    )
    return (high <= low)[index]


def weighted_sum(
    x: Float[Tensor, "B T"], weights: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """``Σ weights·x`` over the mask; 0 with zero gradient where the mask is empty (rule R4)."""
    return (masked(x, mask) * weights).sum()


def token_mean(
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """``Σᵢₜ ℓ / Σᵢ nᵢ``: every token counts the same (DAPO 2503.14476, Eq. 12)."""
    return mask.to(dtype) / mask.sum().clamp(min=1)


def seq_mean_token_mean(
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """``(1/B′)Σᵢ(1/nᵢ)Σₜ ℓ`` over the B′ non-empty rows (GRPO 2402.03300, Eq. 3)."""
    return seq_mean_token_sum(mask, group, length, dtype) / mask.sum(-1, keepdim=True).clamp(min=1)


def seq_mean_token_sum(
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """``(1/B′)Σᵢ Σₜ ℓ``: the policy gradient of whole sequences (RLOO 2402.14740)."""
    return mask.to(dtype) / mask.any(-1).sum().clamp(min=1)


def seq_mean_token_sum_const(
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """``(1/(B′·L))Σᵢₜ ℓ`` with L the generation budget (Dr. GRPO 2503.20783).

    Raises:
        ValueError: no ``length``.
    """
    if length is None:
        raise ValueError("seq_mean_token_sum_const divides by a constant length; none was given")
    return seq_mean_token_sum(mask, group, length, dtype) / length


def prompt_mean(
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """Mean over prompts of the token mean inside each prompt (ScaleRL 2510.13786)."""
    tokens = group_sum(lengths(mask).to(dtype), group)
    prompts = group[mask.any(-1)].unique().numel()
    return mask.to(dtype) / tokens.clamp(min=1)[:, None] / max(prompts, 1)


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum": seq_mean_token_sum,
    "seq_mean_token_sum_const": seq_mean_token_sum_const,
    "prompt_mean": prompt_mean,
}
