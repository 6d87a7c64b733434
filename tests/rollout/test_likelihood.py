"""Loss and token accuracy of held-out demonstrations, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from polopt.data import Demonstration
from polopt.rollout.likelihood import AT_ONCE, likelihood
from polopt.types import Batch, Prompt


def demonstrations(count: int) -> list[Demonstration]:
    tokens, mask = np.array([5, 6, 7]), np.array([False, True, True])
    return [Demonstration(Prompt(i, "p", (5,)), tokens, mask, 1) for i in range(count)]


def test_figures_are_means_over_demonstrations_in_batches_of_any_size() -> None:
    """Of 17 demonstrations, 16 have loss 1 and are half right, the last one 18 and is all right."""
    sizes = list[int]()

    def measure(batch: Batch) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch.groups))
        last = torch.tensor([group.ticket == AT_ONCE for group in batch.groups])
        return torch.where(last, 18.0, 1.0), torch.where(last, 1.0, 0.5)

    found = likelihood(demonstrations(AT_ONCE + 1), measure)
    assert sizes == [AT_ONCE, 1]
    assert found.metrics["nll"] == pytest.approx(2.0)
    assert found.metrics["token_accuracy"] == pytest.approx(9 / 17)
    low, high = found.intervals["nll"]
    # standard error: 17 / 17 = 1; the t distribution with 16 degrees of freedom has 2.1199
    assert (low, high) == pytest.approx((2.0 - 2.1199, 2.0 + 2.1199), abs=1e-4)
    assert math.isclose(sum(found.intervals["token_accuracy"]) / 2, 9 / 17)
