"""Mean and variance of observations, put together from batches."""

from __future__ import annotations

import pytest
import torch

from polopt.models.network import Normaliser


def test_batches_give_the_statistics_of_all_of_them() -> None:
    """1 and 3, then 7 and 9, then 10: the mean is 6; squares 25 + 9 + 1 + 9 + 16 = 60."""
    normaliser = Normaliser(1)
    for batch in ([1.0, 3.0], [7.0, 9.0], [10.0]):
        normaliser.see(torch.tensor(batch)[:, None])
    assert normaliser.count == 5
    assert float(normaliser.mean) == pytest.approx(6.0)
    assert float(normaliser.variance) == pytest.approx(12.0)
    scaled = normaliser(torch.tensor([[6.0], [6.0 + 12**0.5], [1000.0]]))
    assert scaled[:, 0].tolist() == pytest.approx([0.0, 1.0, 10.0])
