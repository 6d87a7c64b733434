"""A key-value cache whose rows have lengths of their own.

Each row's tokens begin at column 0 and new ones go to the row's next column, so that a row's bits
do not depend on the rows beside it: left padding would shift the order in which its attention adds
up. Columns come in blocks of 64 for the same reason (vector kernels treat a tail differently).
"""

from __future__ import annotations

from typing import cast

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

BLOCK = 64


def blocks(columns: int) -> int:
    """The number of columns rounded up to whole blocks."""
    return -(-columns // BLOCK) * BLOCK


class RaggedLayer(CacheLayerMixin):
    """Keys and values of one layer, [B, heads, columns, d], written at per-row positions."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.key_columns, self.value_columns = keys, values
        self.is_initialized = True
        self.positions = torch.zeros(keys.shape[0], dtype=torch.long, device=keys.device)
        self.visible = keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the layer is made full size."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column a row, [B, heads, 1, d], and return the visible columns."""
        rows = torch.arange(key_states.shape[0], device=key_states.device)
        # Under autocast one step may leave float32 what another leaves bfloat16.
        keys, values = self.key_columns, self.value_columns
        keys[rows, :, self.positions] = key_states[:, :, 0].to(keys.dtype)
        values[rows, :, self.positions] = value_states[:, :, 0].to(values.dtype)
        return self.key_columns[:, :, : self.visible], self.value_columns[:, :, : self.visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset; unused, the engine brings its own mask."""
        return self.visible, 0

    def get_seq_length(self) -> int:
        """Columns in use by the longest row."""
        return int(self.positions.max())

    def get_max_length(self) -> int:
        """The number of columns."""
        return self.key_columns.shape[2]


class RaggedCache(Cache):
    """The layers of :class:`RaggedLayer`, moved together."""

    def __init__(self, layers: list[RaggedLayer]) -> None:
        super().__init__(layers=[*layers])
        self.rows = layers

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Point every row at the column it writes next and return its mask [B, 1, 1, columns]."""
        visible = min(blocks(int(positions.max()) + 1), self.rows[0].get_max_length())
        for layer in self.rows:
            layer.positions, layer.visible = positions, visible
        columns = torch.arange(visible, device=positions.device)
        return (columns[None, :] <= positions[:, None])[:, None, None, :]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        for layer in self.rows:
            layer.key_columns = layer.key_columns[rows]
            layer.value_columns = layer.value_columns[rows]


def ragged(prefilled: DynamicCache, rows: torch.Tensor, columns: int) -> RaggedCache:
    """Repeat the prompts' columns for the rows that continue them, with room to grow."""

    def grown(states: torch.Tensor) -> torch.Tensor:
        room = columns - states.shape[2]
        return torch.nn.functional.pad(states[rows], (0, 0, 0, room))

    layers = [cast(DynamicLayer, layer) for layer in prefilled.layers]
    return RaggedCache(
        [RaggedLayer(grown(_full(layer.keys)), grown(_full(layer.values))) for layer in layers]
    )


def _full(states: torch.Tensor | None) -> torch.Tensor:
    assert states is not None, "checked when the prompts were read"
    return states
