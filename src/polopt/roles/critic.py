"""The critic: a value for every state, or for every action in every state."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import torch

from polopt.models import ScalarModel
from polopt.roles.policies.proven import states
from polopt.roles.policies.token import AFTER, Outputs, Quantity, values
from polopt.roles.policies.trunk import Computing
from polopt.roles.scorer import trainable
from polopt.types import TokenRows


@dataclass(frozen=True)
class Critic:
    """A backbone with a head of its own: one output is V(sₜ), one for each token is Q(sₜ, ·)."""

    scalar_model: ScalarModel
    how: Computing = field(default_factory=Computing)

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        """``values``, ``last_values``, ``action_values``; differentiable."""
        found = states(self.scalar_model.model, rows, self.how, ends=bool(want & AFTER))
        return values(self.scalar_model.head, found, want)

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        return trainable(self.scalar_model.model)
