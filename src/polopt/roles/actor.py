"""The policy that is trained."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from polopt.models import LanguageModel
from polopt.roles.policies.token import Quantity, Scores, score
from polopt.types import TokenRows


@dataclass(frozen=True)
class Actor:
    """A language model in the role of the policy."""

    language_model: LanguageModel
    autocast: bool = False  # compute in bfloat16; weights and optimiser stay float32

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Scores:
        """What one forward pass says of ``rows``; differentiable."""
        return score(
            self.language_model.model,
            rows,
            want,
            stop_ids=self.language_model.stop_ids,
            autocast=self.autocast,
        )

    def log_probs(self, rows: TokenRows, micro_batch_rows: int = 128) -> torch.Tensor:
        """Log π of every response token, [B, T], without gradient."""
        with torch.no_grad():
            parts = list[torch.Tensor]()
            for start in range(0, rows.tokens.shape[0], micro_batch_rows):
                index = torch.arange(start, min(start + micro_batch_rows, rows.tokens.shape[0]))
                logp = self.score(rows.rows(index.to(rows.tokens.device)), {"logp"}).logp
                assert logp is not None
                parts.append(logp)
            return torch.cat(parts)
