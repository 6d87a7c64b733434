"""A model of transformers attends by a function of ours, for a while."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

Attention = Callable[..., tuple[Tensor, None]]
"""``attention(module, q [B, h, C, d], k, v [B, k, S, d], mask, *, scaling, ..)``: [B, C, h, d]."""


@contextmanager
def attending(model: torch.nn.Module, name: str, attention: Attention) -> Generator[None]:
    """Inside, the layers of a model call ``attention``, among those of transformers as ``name``.

    There is no function of that name that makes masks, so that transformers makes none.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, attention)
    config = _config(model)
    own, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = own


def attends_by(model: torch.nn.Module) -> str:
    """The name of the function that the layers of a model call: ``sdpa``, ``eager``."""
    return _config(model)._attn_implementation


def _config(model: torch.nn.Module) -> Any:  # noqa: ANN401 - of any architecture
    """The settings that layers read; those of a model with another head may be a copy."""
    return cast(Any, model).base_model.config.get_text_config()
