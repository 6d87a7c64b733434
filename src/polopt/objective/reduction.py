"""The one reducer of token losses: divisors are counted once, over the whole optimiser step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.guards import require_finite
from polopt.math.reduce import Aggregation, masked, token_mean, weighted_sum
from polopt.types import RowIndex, cut


@dataclass(frozen=True)
class Reduction:
    """The reduction of the token losses of one optimiser step; slices of it serve micro-batches."""

    mask: Tensor  # [B, T] bool, tokens in the loss
    weights: Tensor  # [B, T] ∂L/∂ℓ of the aggregation
    token_weights: Tensor  # [B, T] 1/tokens of the step, for metrics
    row: Tensor  # [B] int64, place in the step, to name rows in errors

    def rows(self, index: RowIndex) -> Reduction:
        """The reduction of some rows; its losses add up over the parts of a step."""
        return cut(self, index)

    def loss(self, loss: Tensor) -> Tensor:
        """``Σ weights·ℓ`` over the mask: this part's share of the loss of the step."""
        return weighted_sum(loss, self.weights, self.mask)

    def means(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This part's shares of the token means over the step, detached: for metrics."""
        if not found:
            return {}
        stacked = torch.stack([x.detach().to(self.token_weights.dtype) for x in found.values()])
        shares = (masked(stacked, self.mask.expand(stacked.shape)) * self.token_weights).sum((1, 2))
        return dict(zip(found, shares.unbind(), strict=True))

    def require_finite(self, site: str, name: str, x: Tensor) -> None:
        """Refuse NaN and infinity inside the mask.

        Raises:
            NonFiniteError: names the loss, the tensor and the row of the step.
        """
        require_finite(site, name, x.detach(), self.mask, self.row)


def reduction(
    mask: Tensor,
    group: Tensor,
    aggregate: Aggregation,
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Reduction:
    """The reducer of one optimiser step.

    Args:
        mask: ``[B, T]`` bool, the tokens of all its micro-batches (and of all ranks, whose parts
            are then taken with ``rows``).
        group: ``[B]`` int64, the prompt of each row.
        aggregate: One of ``polopt.math.reduce.AGGREGATIONS``.
        length: The constant of ``seq_mean_token_sum_const``.
        dtype: Of the weights.
    """
    weights = aggregate(mask, group, length, dtype)
    same = aggregate is token_mean  # in small networks, each tensor that is not computed saves time
    return Reduction(
        mask=mask,
        weights=weights,
        token_weights=weights if same else token_mean(mask, group, None, dtype),
        row=torch.arange(mask.shape[0], device=mask.device),
    )
