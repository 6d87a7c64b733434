"""The critic's error."""

import pytest
import torch

from polopt.math.values import value_loss

NAN = float("nan")


def error(v, old, target, clip):
    v = torch.tensor([[v]], dtype=torch.float64, requires_grad=True)
    loss, bites = value_loss(
        v, torch.full_like(v, old), torch.full_like(v, target), torch.ones(1, 1).bool(), clip
    )
    return loss.item(), torch.autograd.grad(loss.sum(), v)[0].item(), bites.item()


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (0.2, (0.32, 0.0, True)),  # V moved to .9 but counts as .2: ½(.8)², no gradient
        (0.5, (0.125, 0.0, True)),  # counts as .5
        (1.0, (0.005, -0.1, False)),  # ½(.1)², slope V - R
        (None, (0.005, -0.1, False)),
    ],
)
def test_by_hand(clip, expected):
    assert error(0.9, 0.0, 1.0, clip) == pytest.approx(expected)


def test_the_larger_error_wins():
    # V = -.5 is farther from R = 1 than the clipped -.2: the free branch, with gradient
    assert error(-0.5, 0.0, 1.0, 0.2) == pytest.approx((1.125, -1.5, False))


def test_a_tie_is_unclipped():
    assert error(0.25, 0.0, 1.0, 0.25)[2] is False


def test_targets_are_constants_and_padding_is_not_read():
    v = torch.tensor([[0.5, NAN]], requires_grad=True)
    target = torch.tensor([[1.0, NAN]], requires_grad=True)
    loss, _ = value_loss(v, v.detach(), target, torch.tensor([[True, False]]), 0.2)
    loss.sum().backward()
    assert v.grad.tolist() == [[-0.5, 0.0]]
    assert target.grad is None
