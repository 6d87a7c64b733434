"""Weights in bfloat16, made once for many tokens.

Autocast takes products in bfloat16 and keeps what it cast for the next product, but not under
``inference_mode``: each token would cast every weight again. What is cast here is what autocast
casts, so that the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Lowered:
    """Copies of float32 weights of linear layers in bfloat16, half as large.

    Inside, the layers have the copies; the model's own weights come back. May be entered again.
    """

    def __init__(self, model: nn.Module) -> None:
        from transformers.pytorch_utils import Conv1D  # linear layers of GPT-2

        layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
        self._own = [(layer, dict(layer.named_parameters(recurse=False))) for layer in layers]
        self._low = [
            (layer, {name: _low(weight) for name, weight in weights.items()})
            for layer, weights in self._own
        ]

    def __enter__(self) -> None:
        _give(self._low)

    def __exit__(self, *_: object) -> None:
        _give(self._own)


def _give(weights: Sequence[tuple[nn.Module, dict[str, nn.Parameter]]]) -> None:
    for layer, named in weights:
        for name, weight in named.items():
            setattr(layer, name, weight)


def _low(weight: nn.Parameter) -> nn.Parameter:
    if weight.dtype != torch.float32:
        return weight
    return nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
