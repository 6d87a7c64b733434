"""The gradients of a learner, which it frees after each optimiser step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from polopt.update import FirstOrder


@contextmanager
def kept(learner: FirstOrder[Any]) -> Generator[dict[str, Tensor]]:
    """Inside, the gradients of the last optimiser step, by the names of the weights."""
    found, step = dict[str, Tensor](), learner._optimiser.step

    def stepped() -> None:
        found.update({n: p.grad.clone() for n, p in learner._named.items() if p.grad is not None})
        step()

    learner._optimiser.step = stepped
    try:
        yield found
    finally:
        learner._optimiser.step = step


def in_one(gradients: dict[str, Tensor]) -> Tensor:
    """All of them as one vector."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).double()
