"""The interface of every role with weights: outputs of a forward pass on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import torch

from polopt.roles.policies.token import Outputs, Quantity
from polopt.types import StepRows, TokenRows


class Scorer(Protocol):
    """A role: actor, critic, reward model."""

    def score(self, rows: Any, want: AbstractSet[Quantity]) -> Outputs:  # noqa: ANN401
        """The outputs of one forward pass of ``rows``, tokens or steps; differentiable."""
        ...

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        ...


def measured(
    scorer: Scorer, rows: TokenRows | StepRows, quantity: Quantity, at_once: int = 128
) -> torch.Tensor:
    """One output for every row, [B, ...], without gradient, ``at_once`` rows per forward pass."""
    (found,) = together(scorer, rows, [quantity], at_once)
    return found


@torch.no_grad()
def together(
    scorer: Scorer, rows: TokenRows | StepRows, quantities: Sequence[Quantity], at_once: int = 128
) -> list[torch.Tensor]:
    """Several outputs of the same forward passes, in the order of their names."""
    parts = [
        scorer.score(rows.rows(index), frozenset(quantities))
        for index in torch.arange(rows.shape[0]).split(at_once)
    ]
    return [torch.cat([getattr(part, quantity) for part in parts]) for quantity in quantities]


def trainable(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.nn.Parameter]:
    """The parameters of a module that take a gradient."""
    return {prefix + name: p for name, p in model.named_parameters() if p.requires_grad}
