"""Models without weights, which take no memory to make and little to send, and get them later."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from polopt.models.load import LanguageModel


def skeleton(language_model: LanguageModel) -> LanguageModel:
    """A copy whose weights are on the device ``meta``; its buffers are copied."""
    empty = {
        id(weight): torch.nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)
        for weight in language_model.model.parameters()
    }
    return replace(language_model, model=deepcopy(language_model.model, empty))


def given(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Have a model use these tensors as its weights, without a copy of them and without gradients.

    A weight that stands in two places of a model does so afterwards.

    Args:
        model: changed in place.
        tensors: one for each of ``model.named_parameters()``.
    """
    made = {
        id(weight): torch.nn.Parameter(tensors[name].detach(), requires_grad=False)
        for name, weight in model.named_parameters()
    }
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, made[id(weight)])


def clothed(empty: LanguageModel, tensors: Mapping[str, Tensor]) -> LanguageModel:
    """A copy of a skeleton that uses these tensors as its weights."""
    model = deepcopy(empty.model)
    given(model, tensors)
    return replace(empty, model=model)
