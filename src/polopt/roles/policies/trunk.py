"""The states of a language model below its head, by the cheapest layout that is proven exact."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polopt.models.packing import checkpointed, packed
from polopt.ranks import ALONE, Ranks
from polopt.roles.policies.packed import packed_rows
from polopt.types import TokenRows


def _nobody(_: str) -> None:
    """Nobody is told."""


class Room:
    """How many tokens a pass has had to be cut to, because the device was short of memory.

    One for a role: whoever computes its passes, measured or trained on, cuts rows alike.
    """

    def __init__(self) -> None:
        self.tokens: int | None = None  # None: it never was

    def within(self, tokens: int | None) -> int | None:
        """The tokens of a pass that was asked to have so many at most; None: all at once."""
        known = [one for one in (tokens, self.tokens) if one is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class Computing:
    """How a pass is computed, whatever is computed in it."""

    autocast: bool = False  # products in bfloat16
    checkpointing: bool = False  # keep the input of each layer, compute the rest of it twice
    tokens: int | None = None  # in one pass, at most; None: all of a batch
    tell: Callable[[str], None] = _nobody  # of what a run should know
    ranks: Ranks = ALONE  # among which the passes of a batch are divided
    room: Room = field(default_factory=Room, compare=False)  # found while it computes


@dataclass(frozen=True)
class Cells:
    """The response tokens of some rows, n of them, and where they belong."""

    tokens: Tensor  # [n] int64
    places: Tensor  # [n] int64, in [B, T] taken as one vector
    shape: tuple[int, int]  # B and T

    def spread(self, x: Tensor) -> Tensor:
        """[n, ...] to [B, T, ...]; 0 elsewhere."""
        whole = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:])
        return whole.index_copy(0, self.places, x).view(*self.shape, *x.shape[1:])


@dataclass(frozen=True)
class States:
    """Hidden states of some rows: before each response token, and after it."""

    cells: Cells
    before: Tensor  # [n, H]
    after: Tensor | None  # [n, H]
    last: Tensor | None  # [B, H] of the last token of prompt and response


def cells(rows: TokenRows, places: Tensor) -> Cells:
    """The response tokens at some places of [B, T] taken as one vector."""
    tokens = rows.tokens[:, rows.prompt_width :].reshape(-1)[places]
    return Cells(tokens, places, (rows.shape[0], rows.width))


def every_cell(rows: TokenRows) -> Cells:
    """All places, those of padding too."""
    return cells(rows, torch.arange(rows.shape[0] * rows.width, device=rows.tokens.device))


def packed_states(model: Any, rows: TokenRows, how: Computing, *, ends: bool) -> States:  # noqa: ANN401
    """The states of rows without padding, and of equal prompts once."""
    given = packed_rows(rows, ends=ends)
    inside = partial(packed, model, given.blocks)
    with inside(), _pass(model, rows, how, inside):
        found = model.base_model(
            input_ids=given.tokens, position_ids=given.positions, use_cache=False
        ).last_hidden_state[0]
    return States(
        cells=cells(rows, given.cells),
        before=found[given.before],
        after=found[given.after] if ends else None,
        last=found[given.last] if ends else None,
    )


def padded_states(model: Any, rows: TokenRows, how: Computing, *, ends: bool) -> States:  # noqa: ANN401
    """The states of rows as they are, by the masks of the model itself."""
    with _pass(model, rows, how, nullcontext):
        found = model.base_model(
            input_ids=rows.tokens,
            attention_mask=rows.attention.long(),
            position_ids=positions(rows),
            use_cache=False,
        ).last_hidden_state
    columns = torch.arange(rows.shape[1], device=found.device)
    end = (columns * rows.attention).argmax(-1)  # of prompt and response
    return States(
        cells=every_cell(rows),
        before=found[:, rows.prompt_width - 1 : -1].flatten(0, 1),
        after=found[:, rows.prompt_width :].flatten(0, 1) if ends else None,
        last=found[torch.arange(len(end), device=end.device), end] if ends else None,
    )


def positions(rows: TokenRows) -> Tensor:
    """The position of each token, from the first one of its prompt, [B, P + T]."""
    return (rows.attention.cumsum(dim=1) - 1).clamp(min=0)


@contextmanager
def _pass(
    model: Any,  # noqa: ANN401
    rows: TokenRows,
    how: Computing,
    inside: Callable[[], AbstractContextManager[None]],
) -> Generator[None]:
    """Precision and memory of a pass; layers that are computed again are so ``inside``."""
    layers = checkpointed(model, inside) if how.checkpointing else nullcontext()
    device = rows.tokens.device.type
    with layers, torch.autocast(device, dtype=torch.bfloat16, enabled=how.autocast):
        yield


def logits_of(model: Any, rows: TokenRows, how: Computing) -> Tensor:  # noqa: ANN401
    """The logits [B, T, V] of the responses, by the head of the model itself."""
    with _pass(model, rows, how, nullcontext):
        found = model(
            input_ids=rows.tokens,
            attention_mask=rows.attention.long(),
            position_ids=positions(rows),
            use_cache=False,
            logits_to_keep=rows.width + 1,  # the column before predicts the first
        )
    return found.logits[:, -rows.width - 1 : -1]
