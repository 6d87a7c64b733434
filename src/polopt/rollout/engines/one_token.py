"""Attention of one token a row, on a processor.

torch's kernels of plain products scale all keys that are in view at every token, and repeat them
for each query that shares them; the fast one gives a row other bits on another thread. This one
scales the query and takes queries that share keys as rows of one product.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from polopt.models.attention import attending, attends_by

NAME = "polopt_one_token"


def attending_to_columns(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Inside, decode with it where the model would call torch's; a GPU has better kernels."""
    if model.device.type != "cpu" or attends_by(model) != "sdpa":
        return nullcontext()
    return attending(model, NAME, attention)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """``softmax(q Kᵀ·scaling + mask) V``, [B, 1, h, d].

    Args:
        module: the layer.
        query: [B, h, 1, d].
        key: [B, k, columns, d]; every h/k queries share one.
        value: [B, k, columns, d].
        attention_mask: [B, 1, 1, columns], added to the scores.
        scaling: None: ``1/√d``.
    """
    rows, heads, _one, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    shared = (query * scale).reshape(rows, key.shape[1], heads // key.shape[1], width)
    scores = shared @ key.transpose(-1, -2) + attention_mask  # [B, k, h/k, columns]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).reshape(rows, 1, heads, width), None
