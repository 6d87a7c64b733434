"""The critic's loss, by the same reducer as the policy's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.reduce import Aggregation, token_mean
from polopt.math.values import value_loss as value_error
from polopt.objective.reduction import Reduction, reduction
from polopt.types import Advantages, Experience, RowIndex, cut


@dataclass(frozen=True)
class ValueObjective:
    """The choices of a critic's loss."""

    clip: float | None = None  # largest change of V since the rollout
    aggregate: Aggregation = token_mean
    aggregation_length: int | None = None


@dataclass(frozen=True)
class ValueTerms:
    """The terms of one optimiser step of a critic that need no gradient, computed once."""

    reduction: Reduction
    targets: Tensor  # [B, T], never normalised
    values_old: Tensor  # [B, T]

    def rows(self, index: RowIndex) -> ValueTerms:
        """The part of some rows, for a micro-batch."""
        return cut(self, index)


@torch.no_grad()
def value_terms(
    experience: Experience, advantages: Advantages, objective: ValueObjective
) -> ValueTerms:
    """The terms of one optimiser step; call it on all rows of the minibatch.

    Raises:
        ValueError: The batch has no values or no targets.
        NonFiniteError: NaN or infinity inside the mask.
    """
    if experience.values is None or advantages.value_targets is None:
        raise ValueError("the value loss reads values and value_targets; one of them is missing")
    reduce = reduction(
        advantages.mask,
        experience.group,
        objective.aggregate,
        objective.aggregation_length,
        advantages.value_targets.dtype,
    )
    reduce.require_finite("value loss", "values", experience.values)
    reduce.require_finite("value loss", "value_targets", advantages.value_targets)
    return ValueTerms(reduce, advantages.value_targets, experience.values)


def value_loss(
    values: Tensor, terms: ValueTerms, objective: ValueObjective
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of ``½·max((V-R)², (V_clip-R)²)``, and of its metrics.

    Args:
        values: ``[B, T]`` of the current critic, with gradient.
        terms: The same rows of ``value_terms``.
        objective: The choices.

    Raises:
        NonFiniteError: A value is NaN or infinite inside the mask.
    """
    reduce = terms.reduction
    reduce.require_finite("value loss", "values", values)
    loss, bites = value_error(values, terms.values_old, terms.targets, reduce.mask, objective.clip)
    total = reduce.loss(loss)
    return total, {"value_loss": total.detach(), **reduce.means({"value_clip_fraction": bites})}
