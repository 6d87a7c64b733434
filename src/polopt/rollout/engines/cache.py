"""A key-value cache whose rows have lengths of their own.

Each row's tokens begin at column 0 and new ones go to the row's next column, so that a row's bits
do not depend on the rows beside it: left padding would shift the order in which its attention adds
up. Columns come in blocks of 64 for the same reason (vector kernels treat a tail differently).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

BLOCK = 64


def blocks(columns: int) -> int:
    """The number of columns rounded up to whole blocks."""
    return -(-columns // BLOCK) * BLOCK


class RaggedLayer(CacheLayerMixin):
    """Keys and values of one layer, [B, heads, columns, d], written at per-row positions."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.key_columns, self.value_columns = keys, values
        self.is_initialized = True
        self.next = (torch.arange(0), torch.arange(0))  # rows [B], and the column of each
        self.visible = keys.shape[2]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the layer is made full size."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write one column a row, [B, heads, 1, d], and return the visible columns."""
        for columns, states in (
            (self.key_columns, key_states),
            (self.value_columns, value_states),
        ):
            columns[self.next[0], :, self.next[1]] = states[:, :, 0].to(columns.dtype)
        return self.key_columns[:, :, : self.visible], self.value_columns[:, :, : self.visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset; unused, the engine brings its own mask."""
        return self.visible, 0

    def get_seq_length(self) -> int:
        """Columns in view; what a row has of them is known to its device alone."""
        return self.visible

    def get_max_length(self) -> int:
        """The number of columns."""
        return self.key_columns.shape[2]


class RaggedCache(Cache):
    """The layers of :class:`RaggedLayer`, moved together, and what each row sees of them.

    Args:
        layers: with the same rows and columns.
        seen: [B, columns], added to attention scores: 0 in the columns that a row has, else -inf.
            Every attention takes such a mask, eager ones too.
    """

    def __init__(self, layers: Sequence[RaggedLayer], seen: Tensor) -> None:
        super().__init__(layers=[*layers])
        self.rows, self.seen = layers, seen

    @property
    def columns(self) -> int:
        """The room of a row."""
        return self.seen.shape[1]

    def at(self, positions: Tensor, reach: int) -> Tensor:
        """Point every row at the column it writes next and return its mask [B, 1, 1, columns].

        Args:
            positions: [B].
            reach: the largest of them; the host counts along, for reading it would wait.
        """
        visible = min(blocks(reach + 1), self.columns)
        self.seen.scatter_(1, positions[:, None], 0.0)
        following = torch.arange(len(positions), device=positions.device), positions
        for layer in self.rows:
            layer.next, layer.visible = following, visible
        return self.seen[:, None, None, :visible]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self.seen = self.seen[rows]
        for layer in self.rows:
            layer.key_columns = layer.key_columns[rows]
            layer.value_columns = layer.value_columns[rows]

    def join(self, other: RaggedCache) -> None:
        """Take in the rows of another one."""
        columns = max(self.columns, other.columns)
        self.seen = torch.cat([_wider(x.seen, columns, -torch.inf) for x in (self, other)])
        for one, its in zip(self.rows, other.rows, strict=True):
            one.key_columns = _joined(one.key_columns, its.key_columns, columns)
            one.value_columns = _joined(one.value_columns, its.value_columns, columns)


def ragged(prefilled: DynamicCache, rows: Tensor, lengths: Tensor, columns: int) -> RaggedCache:
    """Repeat the prompts' columns for the rows that continue them, with room to grow.

    Args:
        prefilled: of the prompts.
        rows: [B], the prompt of each row.
        lengths: [B], its columns that are real.
        columns: of a row.
    """
    device = rows.device.type
    # Rotated keys are float32 under autocast, and attention would cast them at every token.
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def grown(states: Tensor) -> Tensor:
        room = columns - states.shape[2]
        return torch.nn.functional.pad(states[rows].to(low or states.dtype), (0, 0, 0, room))

    layers = [
        RaggedLayer(grown(_full(layer.keys)), grown(_full(layer.values)))
        for layer in cast(Sequence[DynamicLayer], prefilled.layers)
    ]
    seen = torch.zeros(len(rows), columns, dtype=layers[0].key_columns.dtype, device=rows.device)
    beyond = torch.arange(columns, device=rows.device) >= lengths[:, None]
    return RaggedCache(layers, seen.masked_fill_(beyond, -torch.inf))


def _wider(x: Tensor, columns: int, fill: float) -> Tensor:
    """[B, C] with more columns."""
    return torch.nn.functional.pad(x, (0, columns - x.shape[1]), value=fill)


def _joined(one: Tensor, other: Tensor, columns: int) -> Tensor:
    """Rows [B, heads, C, d] of two caches, with the same columns."""
    return torch.cat(
        [torch.nn.functional.pad(x, (0, 0, 0, columns - x.shape[2])) for x in (one, other)]
    )


def _full(states: Tensor | None) -> Tensor:
    assert states is not None, "checked when the prompts were read"
    return states
