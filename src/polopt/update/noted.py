"""What an update makes of the tokens of recorded rows, on the device until the step is read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polopt.ranks import Ranks
from polopt.types import Advantages, Experience, Noted, Recorded


class Notes:
    """Advantages [R, T] and sides of the bound [R, T] of the recorded rows.

    Both have one row more, into which all rows go that are not recorded: so nobody has to ask the
    device which ones those are.
    """

    def __init__(self, advantages: Tensor, recorded: Recorded) -> None:
        self._count = recorded.count
        shape = (recorded.count + 1, advantages.shape[1])
        self._advantages = advantages.new_full(shape, torch.nan)
        self._advantages.index_copy_(0, recorded.slot, advantages)
        self._sides = torch.zeros(shape, dtype=torch.int8, device=advantages.device)
        self._bounded = False

    def add(self, recorded: Recorded, sides: Tensor | None) -> None:
        """Add the sides [b, T] of some rows; None: nothing bounds them."""
        if sides is not None:
            self._sides.index_copy_(0, recorded.slot, sides)
            self._bounded = True

    def whole(self, ranks: Ranks) -> Tensor:
        """All numbers in one row; each rank has the sides of its own passes, 0 elsewhere."""
        sides = self._sides[: self._count]
        ranks.sum([sides])
        return torch.cat([self._advantages[: self._count].flatten(), sides.flatten()])

    def read(self, numbers: list[float]) -> Noted:
        """What :meth:`whole` gave, from the host."""
        advantages, sides = np.array(numbers).reshape(2, self._count, -1)
        return Noted(advantages, sides.astype(np.int64) if self._bounded else None)


def begun(experience: Experience, advantages: Advantages) -> Notes | None:
    """The notes on a batch, without sides; None: nothing of it is recorded."""
    recorded = experience.recorded
    if recorded is None or not recorded.count:
        return None
    return Notes(torch.where(advantages.mask, advantages.advantages, torch.nan), recorded)
