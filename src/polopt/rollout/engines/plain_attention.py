"""Attention by plain products on a processor, whose bits do not depend on the rows beside a row.

torch's fast kernel gives a row other bits on another thread. Its kernel of plain products does not,
but it scales all keys that are in view at every token, repeats them for each query that shares
them, and is chosen for the whole process. This one scales the query, and takes queries that share
keys as rows of one product.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from polopt.models.attention import attending, attends_by

NAME = "polopt_plain"


def attending_plainly(model: torch.nn.Module) -> AbstractContextManager[object]:
    """Inside, a model on a processor attends by it; an accelerator has better kernels."""
    of = cast(Any, model)
    if of.device.type != "cpu":
        return nullcontext()
    if attends_by(model) == "sdpa" and of._supports_attention_backend:
        return attending(model, NAME, attention)
    return sdpa_kernel(SDPBackend.MATH)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """``softmax(q Kᵀ·scaling + mask) V``, [B, C, h, d].

    Args:
        module: the layer.
        query: [B, h, C, d].
        key: [B, k, S, d]; every h/k queries share one.
        value: [B, k, S, d].
        attention_mask: [B, 1, C, S], added to the scores; None: what follows is hidden.
        scaling: None: ``1/√d``.
    """
    rows, heads, count, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    shape = (rows, key.shape[1], heads // key.shape[1], count)
    shared = (query * scale).reshape(rows, key.shape[1], -1, width)
    scores = (shared @ key.transpose(-1, -2)).view(*shape, -1)  # [B, k, h/k, C, S]
    mask = _causal(count, scores) if attention_mask is None else attention_mask[:, :, None]
    weights = (scores + mask).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    out = weights.flatten(2, 3) @ value  # [B, k, h/k·C, d]
    return out.view(rows, heads, count, width).transpose(1, 2), None


def _causal(count: int, scores: Tensor) -> Tensor:
    """-inf for what follows, [C, S]."""
    return torch.full_like(scores[0, 0, 0], -torch.inf).triu(1 + scores.shape[-1] - count)
