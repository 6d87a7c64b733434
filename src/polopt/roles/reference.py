"""The reference: the policy of the start of a stage; ``polopt.update.lagged`` can move it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from polopt.models import LanguageModel
from polopt.models.adapter import switched_off
from polopt.roles.actor import Actor
from polopt.roles.policies.parts import Parts
from polopt.roles.policies.token import Outputs, Quantity
from polopt.roles.policies.trunk import Computing
from polopt.types import TokenRows


def frozen(language_model: LanguageModel, how: Computing | None = None) -> Actor:
    """A policy whose weights take no gradient."""
    language_model.model.requires_grad_(False)
    return Actor(language_model, how or Computing())


@dataclass(frozen=True)
class WithoutAdapter:
    """A policy with its adapter switched off: the initial weights, without a second model."""

    actor: Actor

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        """The outputs of one forward pass of the frozen weights."""
        with switched_off(self.actor.language_model.model):
            return self.actor.score(rows, want)

    def logits(self, rows: TokenRows, places: torch.Tensor) -> Parts:
        """The logits of the response tokens at some places, of the frozen weights."""
        with switched_off(self.actor.language_model.model):
            own = self.actor.logits(rows, places)

        def logits(part: slice) -> torch.Tensor:
            with switched_off(self.actor.language_model.model):  # what has no head runs again
                return own(part)

        return logits

    @property
    def how(self) -> Computing:
        """As the policy is computed."""
        return self.actor.how

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """None: nothing is trained."""
        return {}
