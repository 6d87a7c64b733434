"""Weights on their way to the actors: put into Ray's store once, copied out by each of them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from polopt.models import LanguageModel

Arrays = Mapping[str, NDArray[np.uint8]]
"""The bytes of weights by the names of the parameters."""


@dataclass(frozen=True)
class Parcel:
    """The trained weights of one version, in the store."""

    reference: Any  # of ``Arrays``
    version: int
    checksum: int


class Parcels:
    """The weights of a policy, version by version.

    The store keeps those that are frozen, and the newest of those that are trained.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._lock = model, threading.Lock()
        self._newest: Parcel | None = None
        self.frozen = ray.put(_arrays(_parameters(model, trained=False)))

    def __call__(self, version: int) -> Parcel:
        """The parcel of the weights as they are now; made once for all that ask for a version."""
        with self._lock:
            if self._newest is None or self._newest.version != version:
                trained = _parameters(self._model, trained=True)
                reference = ray.put(_arrays(trained))
                self._newest = Parcel(reference, version, checksum(trained))
            return self._newest


def skeleton(language_model: LanguageModel) -> LanguageModel:
    """A copy without weights, which takes no memory to make and little to send."""
    empty = {
        id(weight): torch.nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)
        for weight in language_model.model.parameters()
    }
    return replace(language_model, model=deepcopy(language_model.model, empty))


def filled(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Give a skeleton memory for its weights, and return them by name, as the trainer has them.

    A weight that stands in two places of a model does so afterwards.
    """
    made = dict[int, torch.nn.Parameter]()
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in made:
                memory = torch.empty_like(weight, device="cpu")
                made[id(weight)] = torch.nn.Parameter(memory, requires_grad=False)
            setattr(module, name, made[id(weight)])
    return dict(model.named_parameters())


@torch.no_grad()
def copied(arrays: Arrays, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite weights by what came."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the store may not be written to: it is only read
        for name, array in arrays.items():
            weight = weights[name]
            weight.copy_(torch.from_numpy(array).view(weight.dtype).view(weight.shape))


@torch.no_grad()
def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """``Σᵢ i · Σ bits`` over the weights in their order, modulo 2⁶⁴: all bits count."""
    total = 0
    for place, weight in enumerate(weights.values(), start=1):
        bits = weight.detach().contiguous().view(-1).view(torch.uint8)
        whole = bits[: bits.numel() // 4 * 4].view(torch.int32).sum(dtype=torch.int64)
        total += place * int(whole + bits[bits.numel() // 4 * 4 :].sum(dtype=torch.int64))
    return total % 2**64


def _parameters(model: torch.nn.Module, *, trained: bool) -> dict[str, torch.Tensor]:
    named = model.named_parameters()
    return {name: weight.detach() for name, weight in named if weight.requires_grad == trained}


def _arrays(weights: Mapping[str, torch.Tensor]) -> Arrays:
    """Their bytes; numpy has no bfloat16."""
    return {
        name: weight.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        for name, weight in weights.items()
    }
