"""The order of training rows: a pure function of the position, so resuming needs only that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from polopt.seeding import derive


@dataclass(frozen=True)
class PromptStream:
    """An endless order of rows.

    Finite data are shuffled anew in every epoch, each row once; of data without end, the position
    is the index.
    """

    size: int | None  # rows; None: without end
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
    """The numbers below ``size`` in an order of the seed."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    order.flags.writeable = False
    return order
