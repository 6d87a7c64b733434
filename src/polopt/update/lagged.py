"""Lagged copies of a role: the reference of a policy, the target of a critic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from polopt.math.pathwise import soft_update
from polopt.types import Advantages, Experience, Metrics
from polopt.update.optimizer_state import load_weights, save_weights


class Lagged:
    """A copy of weights that follows them: every so many batches, a share of the way.

    ``φ′ ← τφ + (1-τ)φ′`` after each ``every``-th batch; with τ = 1 it becomes what they are.
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

    def update(self, experience: Experience, credited: Advantages, step: int) -> Metrics:
        """Follow, where ``step`` batches before this one make it a batch to follow after."""
        if (step + 1) % self._every == 0:
            with torch.no_grad():
                for name, weight in self._copy.items():
                    weight.copy_(soft_update(weight, self._source[name], self._rate))
        return {}

    def save(self, directory: Path) -> dict[str, int]:
        """Write the copy: it stands nowhere else."""
        save_weights(directory, self._copy)
        return {}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Take up what :meth:`save` wrote."""
        load_weights(directory, self._copy)
