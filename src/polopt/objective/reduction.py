"""The one reducer: whoever divides counts once, over the whole optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.guards import require_finite
from polopt.math.reduce import Aggregation, token_mean, weighted_sum


@dataclass(frozen=True)
class Reduction:
    """How token losses of one optimiser step become a number; slices of it serve micro-batches."""

    mask: Tensor  # [B, T] bool, tokens in the loss
    weights: Tensor  # [B, T] ∂L/∂ℓ of the aggregation
    token_weights: Tensor  # [B, T] 1/tokens of the step, for metrics
    row: Tensor  # [B] int64, place in the step, to name rows in errors

    def rows(self, index: Tensor) -> Reduction:
        """The part of some rows; what it returns adds up over the parts of a step."""
        return Reduction(
            self.mask[index], self.weights[index], self.token_weights[index], self.row[index]
        )

    def loss(self, loss: Tensor) -> Tensor:
        """``Σ weights·ℓ`` over the mask: this part's share of the loss of the step."""
        return weighted_sum(loss, self.weights, self.mask)

    def mean(self, x: Tensor) -> Tensor:
        """This part's share of the token mean over the step, detached: for metrics."""
        x = x.detach()
        x = x if x.is_floating_point() else x.to(self.token_weights.dtype)
        return weighted_sum(x, self.token_weights, self.mask)

    def require_finite(self, site: str, name: str, x: Tensor) -> None:
        """Refuse NaN and infinity inside the mask.

        Raises:
            NonFiniteError: Names site, tensor and the row of the step.
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
    return Reduction(
        mask=mask,
        weights=aggregate(mask, group, length, dtype),
        token_weights=token_mean(mask, group, None, dtype),
        row=torch.arange(mask.shape[0], device=mask.device),
    )
