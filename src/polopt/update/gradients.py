"""Gradients of weights that every rank holds, and of weights that are sharded among the ranks.

The first are summed here, the second in the backward pass, where they are made. A norm is over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from polopt.models.sharded import is_sharded, whole
from polopt.ranks import Ranks


def summed(ranks: Ranks, weights: Sequence[Tensor], totals: dict[str, Tensor]) -> None:
    """Add up gradients and sums of metrics over the ranks; afterwards all of them have the same."""
    if ranks.alone:
        return
    held = [weight for weight in weights if not is_sharded(weight)]
    own = [place for place, weight in enumerate(held) if weight.grad is not None]
    said = ranks.said([own, list(totals)])  # one that had no work has neither
    for place in sorted({place for places, _ in said for place in places}):
        if held[place].grad is None:
            held[place].grad = torch.zeros_like(held[place])
    ranks.sum([weight.grad for weight in held if weight.grad is not None])
    names = list(dict.fromkeys(name for _, of_rank in said for name in of_rank))
    if not names:
        return
    device = weights[0].device
    zero = torch.zeros((), dtype=torch.float64, device=device)
    sums = torch.stack([totals.get(name, zero).to(zero) for name in names])
    ranks.sum([sums])
    totals |= zip(names, sums.unbind(), strict=True)


@torch.no_grad()
def agree(ranks: Ranks, name: str, weights: Sequence[Tensor]) -> None:
    """Make sure that weights which every rank moved by itself are still the same, by their sums.

    Raises:
        RankError: they are not.
    """
    if ranks.alone:
        return
    sums = [weight.double().sum() for weight in weights if not is_sharded(weight)]
    ranks.agree(name, [repr(torch.stack(sums).tolist()).encode()] if sums else [])


def norm(weights: Sequence[Tensor]) -> Tensor:
    """The length of all gradients as one vector; the same on every rank."""
    given = [weight.grad for weight in weights if weight.grad is not None]
    total = torch.nn.utils.get_total_norm([one for one in given if not is_sharded(one)])
    shares = [one for one in given if is_sharded(one)]
    if not shares:
        return total
    of_shares = whole(torch.nn.utils.get_total_norm(shares))
    return torch.linalg.vector_norm(torch.stack([total.to(of_shares), of_shares]))


@torch.no_grad()
def clip(weights: Sequence[Tensor], most: float, total: Tensor) -> None:
    """Scale gradients of length ``total`` to ``most``, as torch does it with those of one kind."""
    torch.nn.utils.clip_grads_with_norm_([one for one in weights if not is_sharded(one)], most, total)
    factor = (most / (total + 1e-6)).clamp(max=1.0)
    for weight in weights:
        if is_sharded(weight) and weight.grad is not None:
            cast(Any, weight.grad).to_local().mul_(factor)
