"""The check that stands before the mathematics: what is inside the mask is finite (rule R8)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.errors import NonFiniteError


def require_finite(
    site: str,
    name: str,
    x: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    row: Int[Tensor, "B"] | None = None,
) -> None:
    """Refuse NaN and infinity inside the mask; a loss is never repaired with ``nan_to_num``.

    Args:
        site: Where the number was about to be used, for the message.
        name: What the tensor is called, for the message.
        x: Any tensor of one number a token.
        mask: Where it is read.
        row: What to call the rows of a slice; default: their place in ``x``.

    Raises:
        NonFiniteError: Names site, tensor, row, column and value of the first such cell.
    """
    if math.isfinite(x.sum().item()):  # one number for all; a sum may overflow, then each is asked
        return
    bad = mask & ~torch.isfinite(x)
    if not bad.any():
        return
    i, t = (int(n) for n in bad.nonzero()[0])
    name_of_row = i if row is None else int(row[i])
    raise NonFiniteError(
        f"{site}: {name} is {x[i, t].item()} at row {name_of_row}, token {t};"
        " values inside the mask must be finite"
    )
