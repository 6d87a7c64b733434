"""Weights in bfloat16, made once for many tokens.

Autocast takes products in bfloat16 and keeps what it cast for the next product, but not under
``inference_mode``: each token would cast every weight again. What is cast here is what autocast
casts, so that the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def lowered(model: nn.Module) -> Generator[None]:
    """Inside, linear layers have their float32 weights in bfloat16; the model's own come back.

    The copies live as long as the context, half as large as the weights that they stand for.
    """
    from transformers.pytorch_utils import Conv1D  # linear layers of GPT-2

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    own = [(layer, dict(layer.named_parameters(recurse=False))) for layer in layers]
    try:
        for layer, weights in own:
            for name, weight in weights.items():
                setattr(layer, name, _low(weight))
        yield
    finally:
        for layer, weights in own:
            for name, weight in weights.items():
                setattr(layer, name, weight)


def _low(weight: nn.Parameter) -> nn.Parameter:
    if weight.dtype != torch.float32:
        return weight
    return nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
