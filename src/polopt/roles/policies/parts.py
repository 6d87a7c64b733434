"""The logits of a language model at some response tokens, a few of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polopt.math.reduce import widen
from polopt.roles.policies.proven import proven, states
from polopt.roles.policies.token import sampled
from polopt.roles.policies.trunk import Computing, logits_of
from polopt.types import TokenRows

Parts = Callable[[slice], Tensor]
"""Logits [m, V] of some of n tokens, as the sampler has them; may be written over."""


def in_parts(
    model: Any,  # noqa: ANN401 - of transformers
    rows: TokenRows,
    places: Tensor,
    *,
    stop_ids: tuple[int, ...],
    how: Computing,
) -> Parts:
    """The states of all rows are computed at once, and held; their logits when they are asked for.

    Args:
        model: one whose logits are more than head and state is asked anew for every part, and takes
            one row at a time.
        rows: prompts and responses.
        places: [n], of response tokens in [B, T] taken as one vector, in ascending order.
        stop_ids: that end a response, and cannot be drawn before ``rows.min_new_tokens``.
        how: precision and memory.
    """
    logits, drawn = _logits(model, rows, places, how), sampled(rows, stop_ids, places)
    return lambda part: drawn.of(widen(logits(part)), part)


def _logits(model: Any, rows: TokenRows, places: Tensor, how: Computing) -> Parts:  # noqa: ANN401
    head = proven(model).head
    if head is None:
        return lambda part: _of_row(model, rows, places[part], how)
    found = states(model, rows, how, ends=False)
    at = places.new_zeros(rows.shape[0] * rows.width)
    at[found.cells.places] = torch.arange(len(found.cells.places), device=at.device)
    hidden = found.before[at[places]]

    def logits(part: slice) -> Tensor:
        with torch.autocast(rows.tokens.device.type, dtype=torch.bfloat16, enabled=how.autocast):
            return head.logits(hidden[part])

    return logits


def _of_row(model: Any, rows: TokenRows, places: Tensor, how: Computing) -> Tensor:  # noqa: ANN401
    """The logits at some places of a single row: it is read up to the last of them."""
    first, last = int(places[0]), int(places[-1])
    start, end = rows.prompt_width + first, rows.prompt_width + last + 1
    tokens, attention = rows.tokens[:, :end], rows.attention[:, :end]
    shown = replace(rows, tokens=tokens, attention=attention, prompt_width=start)
    return logits_of(model, shown, how)[0, places - first]
