"""The loss of an implicit process reward model: which answers its loss and its accuracy count."""

from __future__ import annotations

import math

import pytest
import torch

from polopt.objective import process_loss, process_terms
from polopt.types import Experience


def test_an_answer_that_could_not_be_judged_is_neither_in_the_loss_nor_in_the_accuracy() -> None:
    """z = ±log 3 is a chance of ¾ and ¼. Right and wrong are told, one right is not: ⅔ of three.

    The fourth was not judged; z is below 0 there, as for an answer that is wrong.
    """
    right = torch.tensor([1.0, 0.0, 1.0, math.nan])
    mask = torch.ones(4, 2, dtype=torch.bool)
    logp = math.log(3) * torch.tensor([[3.0, -1.0], [-2.0, 0.0], [-1.0, -1.0], [0.0, -2.0]])
    given = Experience(mask, torch.arange(4), right, logp_ref=torch.zeros(4, 2), right=right)
    loss, metrics = process_loss(logp, process_terms(given), beta=0.5)
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)
    assert float(loss) == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3)
