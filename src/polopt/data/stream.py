"""The order of training rows, a pure function of the position: to resume, that is all it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from polopt.seeding import derive


@dataclass(frozen=True)
class PromptStream:
    """An endless order of rows.

    Finite data are shuffled anew in every epoch, each row once; for endless data, the index of a
    row is its position.
    """

    size: int | None  # number of rows; None: endless
    seed: int

    def __call__(self, position: int) -> int:
        """The index of the row at a position >= 0."""
        if position < 0:
            raise ValueError(f"position {position} is before the beginning of the stream")
        if self.size is None:
            return position
        epoch, place = divmod(position, self.size)
        return int(shuffled(self.size, derive(self.seed, "epoch", epoch))[place])


@lru_cache(maxsize=2)
def shuffled(size: int, seed: int) -> NDArray[np.int64]:
    """A permutation of the numbers below ``size``, by the seed; read-only."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    order.flags.writeable = False
    return order
