"""A replay buffer of the newest steps, from which batches are drawn uniformly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from polopt.envs.control.interface import Transition
from polopt.errors import RecipeError
from polopt.types import Advantages, Experience, Metrics, Transitions

FILE = "replay.safetensors"


class Replay:
    """A ring of ``size`` steps, one a row of one table; the newest take the place of the oldest.

    It has the interface of a learner, so that checkpoints hold its content; it has no update.

    Raises:
        RecipeError: it does not fit into memory.
    """

    name = "replay"

    def __init__(self, size: int, observation_size: int, action_size: int) -> None:
        self.size, self._sizes = size, (observation_size, action_size)
        width = 2 * observation_size + action_size + 2
        try:
            self._table = np.zeros((size, width), dtype=np.float32)  # pages come as they fill
        except (MemoryError, ValueError) as error:
            gib = size * width * 4 / 2**30
            raise RecipeError(
                f"replay.size: {size} is not allowed; {width} numbers a step are {gib:.0f} GiB, "
                "more than there is"
            ) from error
        self.filled = 0
        self._next = 0

    def add(
        self,
        observations: NDArray[np.float32],
        actions: NDArray[np.float32],
        step: Transition,
        valid: NDArray[np.bool_],
    ) -> None:
        """Store the valid ones of N steps: observation, action, reward, successor, termination."""
        columns = (
            observations,
            actions,
            step.successors,
            step.rewards[:, None],
            step.terminated[:, None],  # truncation is not stored: the successor still has its value
        )
        rows = np.concatenate(columns, 1, dtype=np.float32)[valid]
        places = (self._next + np.arange(len(rows))) % self.size
        self._table[places] = rows
        self._next = int(self._next + len(rows)) % self.size
        self.filled = min(self.filled + len(rows), self.size)

    def draw(self, count: int, generator: np.random.Generator) -> Transitions:
        """``count`` stored steps, each one as likely as any other, with replacement."""
        rows = self._table.take(generator.integers(self.filled, size=count), 0)
        return Transitions(torch.from_numpy(rows), *self._sizes)

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """No update: steps are stored by :meth:`add`."""
        return {}

    def save(self, directory: Path) -> dict[str, int]:
        """Write the stored steps; return the position of the next one."""
        save_file({"table": self._table[: self.filled]}, directory / FILE)
        return {"next": self._next}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        table = load_file(directory / FILE)["table"]
        self.filled, self._next = len(table), counters["next"]
        self._table[: self.filled] = table
