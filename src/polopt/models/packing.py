"""Sequences without padding in one forward pass, and what several of them share only once.

The tokens of all sequences stand in one row. Whatever works on single tokens (embeddings, norms,
linear layers, experts) sees each of them once; attention alone knows where a sequence begins, and
which tokens stand before it. The responses to a prompt have its tokens as their common prefix: they
are computed once, and gradients of all responses add up in them. This is exact, for a causal model
computes the states of a prompt without regard to what follows.

Attention works on blocks: sequences of about the same length behind one prefix, padded on the right
for this product alone. Padding comes after all that is real, so that no mask has to hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from polopt.models.attention import attending

NAME = "polopt_packed"  # of the attention, among those of transformers


@dataclass(frozen=True)
class Block:
    """Sequences that attend to themselves and to one prefix; they stand one after the other."""

    start: int  # of its tokens in the row
    count: int  # tokens
    rows: int
    width: int  # of the longest sequence
    prefix_start: int = 0
    prefix: int = 0  # tokens before each sequence
    spread: Tensor | None = None  # [rows·width] place in the block; None: all are equally long
    gather: Tensor | None = None  # [count] the way back

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, of: _Attention) -> Tensor:
        """The outputs [count, h, d] of queries [h, N, d], keys and values [k, N, d]."""
        q, k, v = (self._padded(x) for x in (query, key, value))
        if self.prefix:
            k, v = (torch.cat([self._before(x), own], dim=2) for x, own in ((key, k), (value, v)))
        out = of.product(q, k, v).transpose(1, 2)  # [rows, width, h, d]
        out = out.reshape(self.rows * self.width, *out.shape[2:])
        return out if self.gather is None else out[self.gather]

    def _padded(self, x: Tensor) -> Tensor:
        """[h, N, d] to [rows, h, width, d]."""
        own = x[:, self.start : self.start + self.count]
        if self.spread is not None:
            own = own[:, self.spread]
        return own.view(x.shape[0], self.rows, self.width, x.shape[2]).transpose(0, 1)

    def _before(self, x: Tensor) -> Tensor:
        """[h, N, d] to [rows, h, prefix, d], without a copy."""
        own = x[:, self.prefix_start : self.prefix_start + self.prefix]
        return own[None].expand(self.rows, *own.shape)


@dataclass(frozen=True)
class _Attention:
    """The settings of a layer."""

    scaling: float | None
    softcap: float | None  # Gemma 2: scores s become c·tanh(s/c)

    def product(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention [B, h, C, d] of the last C of P + C tokens."""
        width, seen = q.shape[2], k.shape[2]
        if self.softcap is not None:
            return self._capped(q, k, v)
        square = seen == width
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if square or width == 1 else _lower_right(width, seen, q.device),
            is_causal=square and width > 1,
            scale=self.scaling,
            enable_gqa=k.shape[1] != q.shape[1],
        )

    def _capped(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same with capped scores, which no kernel of torch has."""
        assert self.softcap is not None
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scale = q.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        scores = self.softcap * torch.tanh(q @ k.transpose(-1, -2) * (scale / self.softcap))
        hidden = ~_lower_right_mask(q.shape[2], k.shape[2], q.device)
        weights = scores.float().masked_fill(hidden, -torch.inf).softmax(dim=-1)
        return weights.to(v.dtype) @ v


def _lower_right(width: int, seen: int, device: torch.device) -> Any:  # noqa: ANN401
    """What the last ``width`` of ``seen`` tokens see; kernels of CUDA know it without a mask."""
    if device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right  # loads torch's compiler: a second

        return causal_lower_right(width, seen)
    return _lower_right_mask(width, seen, device)


def _lower_right_mask(width: int, seen: int, device: torch.device) -> Tensor:
    return torch.ones(width, seen, dtype=torch.bool, device=device).tril(seen - width)


_blocks: ContextVar[Sequence[Block]] = ContextVar("blocks")


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: object = None,
    position_bias: object = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention of a layer, called by transformers: [1, h, N, d] to [1, N, h, d]."""
    if s_aux is not None or position_bias is not None:
        raise NotImplementedError("attention with sinks or with a bias by position")
    of = _Attention(scaling, softcap)
    parts = [block.attend(query[0], key[0], value[0], of=of) for block in _blocks.get()]
    return torch.cat(parts)[None], None


@contextmanager
def packed(model: torch.nn.Module, blocks: Sequence[Block]) -> Generator[None]:
    """Inside, the model attends by blocks: call it on one row, without a mask."""
    token = _blocks.set(blocks)
    try:
        with attending(model, NAME, _attention):
            yield
    finally:
        _blocks.reset(token)


@contextmanager
def checkpointed(
    model: torch.nn.Module, again: Callable[[], AbstractContextManager[None]]
) -> Generator[None]:
    """Inside, a pass with gradient keeps the input of each layer only, and computes it once more.

    Args:
        model: of transformers.
        again: the context in which a layer is computed once more, in the backward pass.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    function = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    modes = [layer.training for layer in layers]
    for layer in cast(Sequence[Any], layers):
        # Of the layer itself: what is inside, dropout with it, stays as in evaluation.
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = function
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.gradient_checkpointing, layer.training = False, mode
