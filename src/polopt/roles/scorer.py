"""What every role with weights can do: say something of the tokens of a batch."""

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
        """What one forward pass says of ``rows``, of tokens or of steps; differentiable."""
        ...

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The weights that are trained, by name."""
        ...


def measured(
    scorer: Scorer, rows: TokenRows | StepRows, quantity: Quantity, at_once: int = 128
) -> torch.Tensor:
    """One quantity of every row, [B, ...], without gradient, ``at_once`` rows a forward pass."""
    (found,) = together(scorer, rows, [quantity], at_once)
    return found


@torch.no_grad()
def together(
    scorer: Scorer, rows: TokenRows | StepRows, quantities: Sequence[Quantity], at_once: int = 128
) -> list[torch.Tensor]:
    """Several quantities of the same forward passes, in their order."""
    parts = [
        scorer.score(rows.rows(index), frozenset(quantities))
        for index in torch.arange(rows.shape[0]).split(at_once)
    ]
    return [torch.cat([getattr(part, quantity) for part in parts]) for quantity in quantities]


def trainable(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.nn.Parameter]:
    """The parameters of a module that take a gradient."""
    return {prefix + name: p for name, p in model.named_parameters() if p.requires_grad}
