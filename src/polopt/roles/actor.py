"""The policy that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import torch

from polopt.models import LanguageModel
from polopt.roles.policies.parts import Parts, in_parts
from polopt.roles.policies.token import Outputs, Quantity, score
from polopt.roles.policies.trunk import Computing
from polopt.roles.scorer import measured, trainable
from polopt.types import TokenRows


@dataclass(frozen=True)
class Actor:
    """A language model in the role of the policy."""

    language_model: LanguageModel
    how: Computing = field(default_factory=Computing)
    value_head: torch.nn.Linear | None = None  # of a critic that shares the trunk

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        """The outputs of one forward pass of ``rows``; differentiable."""
        return score(
            self.language_model.model,
            rows,
            want,
            stop_ids=self.language_model.stop_ids,
            how=self.how,
            value_head=self.value_head,
        )

    def logits(self, rows: TokenRows, places: torch.Tensor) -> Parts:
        """The logits of the response tokens at some places of [B, T], as :func:`in_parts`."""
        model = self.language_model
        return in_parts(model.model, rows, places, stop_ids=model.stop_ids, how=self.how)

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        own = trainable(self.language_model.model)
        return own if self.value_head is None else own | trainable(self.value_head, "value_head.")

    def log_probs(self, rows: TokenRows) -> torch.Tensor:
        """Log π of every response token, [B, T], without gradient."""
        return measured(self, rows, "logp")
