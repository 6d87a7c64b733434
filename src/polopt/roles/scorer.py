"""The interface of every role with weights: outputs of a forward pass on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import torch

from polopt.roles.policies.token import Outputs, Quantity
from polopt.types import StepRows, TokenRows

AT_ONCE = 128  # rows per forward pass without gradient


class Scorer(Protocol):
    """A role: actor, critic, reward model."""

    def score(self, rows: Any, want: AbstractSet[Quantity]) -> Outputs:  # noqa: ANN401
        """The outputs of one forward pass of ``rows``, tokens or steps; differentiable."""
        ...

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        ...


def measured(scorer: Scorer, rows: TokenRows | StepRows, quantity: Quantity) -> torch.Tensor:
    """One output for every row, [B, ...], without gradient."""
    (found,) = together(scorer, rows, [quantity])
    return found


@torch.no_grad()
def together(
    scorer: Scorer, rows: TokenRows | StepRows, quantities: Sequence[Quantity]
) -> list[torch.Tensor]:
    """Several outputs of every row, [B, ...] each, without gradient, in the order of the names."""
    parts = [
        scorer.score(rows.rows(index), frozenset(quantities))
        for index in torch.arange(rows.shape[0]).split(AT_ONCE)
    ]
    return [torch.cat([getattr(part, quantity) for part in parts]) for quantity in quantities]


def trainable(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.nn.Parameter]:
    """The parameters of a module that take a gradient."""
    return {prefix + name: p for name, p in model.named_parameters() if p.requires_grad}
