"""Lagged copies of a role: the moving reference of a policy, target networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from polopt.math.pathwise import soft_update
from polopt.types import Advantages, Experience, Metrics
from polopt.update.optimizer_state import load_weights, save_weights


class Lagged:
    """A lagged copy of weights, moved towards them every ``every`` batches (Polyak averaging).

    ``φ′ ← τφ + (1-τ)φ′`` after each ``every``-th batch; τ = 1 copies them.
    """

    def __init__(
        self,
        name: str,
        copy: Mapping[str, Tensor],
        source: Mapping[str, Tensor],
        *,
        every: int,
        rate: float,
    ) -> None:
        self.name = name
        self._copy, self._source = copy, source
        self._every, self._rate = every, rate

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Move the copy after every ``every``-th batch; ``step`` batches came before this one."""
        if (step + 1) % self._every == 0:
            with torch.no_grad():
                for name, weight in self._copy.items():
                    weight.copy_(soft_update(weight, self._source[name], self._rate))
        return {}

    def save(self, directory: Path) -> dict[str, int]:
        """Write the copy, which is in no other file."""
        save_weights(directory, self._copy)
        return {}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        load_weights(directory, self._copy)
