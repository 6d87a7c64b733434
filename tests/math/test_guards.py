"""NaN and infinity inside the mask are errors that say where."""

import pytest
import torch

from polopt.errors import NonFiniteError
from polopt.math.guards import read_together, require_finite

X = torch.tensor([[0.0, float("nan")], [float("inf"), 1.0]])


def test_outside_the_mask_nothing_is_read():
    require_finite("here", "x", X, torch.tensor([[True, False], [False, True]]))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([[True, True], [False, False]], ("here: x is nan", "row 0, token 1")),
        ([[True, False], [True, False]], ("here: x is inf", "row 1, token 0")),
    ],
)
def test_inside_the_mask_it_raises(mask, words):
    with pytest.raises(NonFiniteError) as caught:
        require_finite("here", "x", X, torch.tensor(mask))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_rows_of_a_slice_keep_their_names():
    with pytest.raises(NonFiniteError, match="row 40"):
        require_finite("here", "x", X, torch.ones(2, 2).bool(), torch.tensor([40, 41]))


def test_checks_that_are_read_together_raise_at_the_end_the_first_first():
    good, all_of_it = torch.zeros(2, 2), torch.ones(2, 2).bool()
    reached = False
    wanted = pytest.raises(NonFiniteError, match="there: y is nan at row 0, token 1")
    with wanted, read_together():
        require_finite("here", "x", good, all_of_it)
        with read_together():
            require_finite("there", "y", X, all_of_it)
        require_finite("there", "z", X, all_of_it)
        reached = True
    assert reached
    with pytest.raises(NonFiniteError):  # and afterwards at once
        require_finite("here", "x", X, all_of_it)


def test_a_sum_that_overflows_is_no_error():
    most = torch.finfo(torch.float32).max
    require_finite("here", "x", torch.full((2, 2), most), torch.ones(2, 2).bool())
