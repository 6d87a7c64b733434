"""Checks that tensors are finite inside the mask, made before a loss is computed (rule R8)."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.errors import NonFiniteError


class _Asked(NamedTuple):
    """A check that is not read yet: its result on the device, and what the error needs."""

    total: Tensor  # sum of all cells, masked or not: finite only if each of them is
    site: str
    name: str
    x: Tensor
    mask: Tensor
    row: Tensor | None


_waiting: ContextVar[list[_Asked] | None] = ContextVar("waiting", default=None)


def require_finite(
    site: str,
    name: str,
    x: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    row: Int[Tensor, "B"] | None = None,
) -> None:
    """Refuse NaN and infinity inside the mask; a loss is never repaired with ``nan_to_num``.

    Inside of :func:`read_together` the error comes at its end.

    Args:
        site: Where the number was about to be used, for the message.
        name: What the tensor is called, for the message.
        x: Any tensor of one number a token.
        mask: Where it is read.
        row: Numbers of the rows for the message, where ``x`` is a slice; default: places in ``x``.

    Raises:
        NonFiniteError: Names site, tensor, row, column and value of the first such cell.
    """
    x = x.detach()
    asked = _Asked(x.sum(), site, name, x, mask, row)
    waiting = _waiting.get()
    if waiting is None:
        _read([asked])
    else:
        waiting.append(asked)


@contextmanager
def read_together() -> Generator[None]:
    """Read all checks inside at the end, together: the host waits for the accelerator once.

    Raises:
        NonFiniteError: of the first check that fails, in the order in which they were made.
    """
    if _waiting.get() is not None:  # an outer context reads them
        yield
        return
    waiting = list[_Asked]()
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(token)
    _read(waiting)


def _read(checks: list[_Asked]) -> None:
    if not checks:
        return
    totals = torch.stack([one.total for one in checks]).tolist()
    for one, total in zip(checks, totals, strict=True):
        if not math.isfinite(total):  # or the sum overflowed, or the cell is outside the mask
            _refuse(one)


def _refuse(one: _Asked) -> None:
    bad = one.mask & ~torch.isfinite(one.x)
    if not bad.any():
        return
    i, t = (int(n) for n in bad.nonzero()[0])
    name_of_row = i if one.row is None else int(one.row[i])
    raise NonFiniteError(
        f"{one.site}: {one.name} is {one.x[i, t].item()} at row {name_of_row}, token {t};"
        " values inside the mask must be finite"
    )
