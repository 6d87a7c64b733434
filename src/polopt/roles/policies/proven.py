"""What is exact for a model is found by trying: its own forward pass is the authority.

Packed rows, and logits as output embedding times state, hold for most architectures and not for
all. A small batch is computed both ways the first time that a model is asked; where the two differ,
or the model cannot do it, its own way is taken.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from polopt.errors import one_line
from polopt.roles.policies.head import Head
from polopt.roles.policies.trunk import (
    Computing,
    States,
    logits_of,
    packed_states,
    padded_states,
)
from polopt.types import TokenRows

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_PLAIN = Computing()
_FAILURES = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, LookupError)


@dataclass(frozen=True)
class Proven:
    """What is exact for a model."""

    head: Head | None  # None: logits are more than head and state, the model is asked for them
    unpacked: str | None  # why its rows cannot be packed; None: they can


def proven(model: Any) -> Proven:  # noqa: ANN401 - of transformers
    """What is exact for a model; two small passes the first time it is asked."""
    if model not in _known:
        _known[model] = _prove(model)
    known = _known[model]
    if known.head is None:
        return known
    # The model owns the weights, and may have got others since.
    weight, bias = _embedding(model)
    return replace(known, head=replace(known.head, weight=weight, bias=bias))


_known: WeakKeyDictionary[torch.nn.Module, Proven] = WeakKeyDictionary()


@contextmanager
def plainly(model: Any) -> Generator[None]:  # noqa: ANN401
    """Inside, the model computes rows and logits by its own forward pass, whatever is proven."""
    before = proven(model)
    _known[model] = Proven(None, "asked for by the model's own pass")
    try:
        yield
    finally:
        _known[model] = before


def packs(model: Any, rows: TokenRows) -> bool:  # noqa: ANN401
    """Whether these rows can be packed: there, attention sees all that is before."""
    return proven(model).unpacked is None and rows.shape[1] <= window(model)


def window(model: Any) -> int:  # noqa: ANN401
    """Tokens that every layer can look back on."""
    config = model.config.get_text_config()
    if set(getattr(config, "layer_types", None) or ()) == {"full_attention"}:
        return 1 << 30
    names = ("sliding_window", "attention_chunk_size", "window_size")
    return min([w for n in names if isinstance(w := getattr(config, n, None), int)] or [1 << 30])


def states(model: Any, rows: TokenRows, how: Computing, *, ends: bool) -> States:  # noqa: ANN401
    """The states of one forward pass of a model of transformers; differentiable.

    Args:
        model: with or without a head; the head is not called.
        rows: with at least one column of responses.
        how: precision and memory.
        ends: whether the states of last tokens are wanted.
    """
    way = packed_states if packs(model, rows) else padded_states
    return way(model, rows, how, ends=ends)


@torch.no_grad()
def _prove(model: Any) -> Proven:  # noqa: ANN401
    if model.base_model is model:
        return Proven(None, "it has no layers of their own below its head")
    rows = _rows(model)
    plain = padded_states(model, rows, _PLAIN, ends=True)
    unpacked = None
    try:
        found = packed_states(model, rows, _PLAIN, ends=True)
    except torch.OutOfMemoryError:
        raise
    # Architectures with a state or an attention of their own fail in ways of their own.
    except _FAILURES as error:
        unpacked = one_line(f"{type(error).__name__}: {error}", 120)
    else:
        own = plain.before[found.cells.places]
        if not (_close(found.before, own) and _close(found.last, plain.last)):
            unpacked = "its states depend on how rows are laid out"
    return Proven(_head(model, rows, plain), unpacked)


def _head(model: Any, rows: TokenRows, plain: States) -> Head | None:  # noqa: ANN401
    """The head, if it makes the logits that the model makes itself."""
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        return None
    config = model.config.get_text_config()
    head = Head(
        *_embedding(model),
        scale=getattr(config, "logit_scale", None)
        or 1 / (getattr(config, "logits_scaling", None) or 1),
        cap=getattr(config, "final_logit_softcapping", None),
    )
    own = logits_of(model, rows, _PLAIN)
    return head if _close(head.logits(plain.before), own.flatten(0, 1)) else None


def _embedding(model: Any) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
    layer = model.get_output_embeddings()
    return layer.weight, getattr(layer, "bias", None)


def _rows(model: Any) -> TokenRows:  # noqa: ANN401
    """Two responses to a prompt, and one to a longer one."""
    vocabulary = model.config.get_text_config().vocab_size
    tokens = (torch.arange(27, device=model.device).reshape(3, 9) * 7 + 1) % vocabulary
    tokens[1, :5] = tokens[0, :5]
    attention = torch.ones(3, 9, dtype=torch.bool, device=model.device)
    attention[:2, :2] = False
    attention[1, 7:] = False
    return TokenRows(tokens, attention, prompt_width=5)


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether numbers agree as far as their precision goes, by the size of the largest."""
    assert a is not None and b is not None
    return bool((a - b).abs().max() <= TOLERANCE[a.dtype] * b.abs().max().clamp(min=1e-6))
