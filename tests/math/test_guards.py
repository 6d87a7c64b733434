"""NaN and infinity inside the mask are errors that say where."""

import pytest
import torch

from polopt.errors import NonFiniteError
from polopt.math.guards import require_finite

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
