"""Weights on their way to the actors: put into Ray's store once, copied out by each of them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError

from polopt.errors import EngineError, one_line
from polopt.models.skeleton import given
from polopt.rollout.engines import Weights
from polopt.rollout.engines.arrival import checksums

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
        named = model.named_parameters()
        frozen = {name: w.detach() for name, w in named if not w.requires_grad}
        self._lock = threading.Lock()
        self._newest: Parcel | None = None
        self.frozen = _put(frozen)

    def __call__(self, version: int, weights: Weights) -> Parcel:
        """The parcel of a version; made once for all that ask for it.

        Args:
            version: of the weights as they are now.
            weights: that are trained, by the names of the parameters.
        """
        with self._lock:
            if self._newest is None or self._newest.version != version:
                trained = weights()
                self._newest = Parcel(_put(trained), version, checksum(trained))
            return self._newest


def filled(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Give a skeleton memory for its weights, and return them by name, as the trainer has them."""
    named = model.named_parameters()
    given(model, {name: torch.empty_like(weight, device="cpu") for name, weight in named})
    return dict(model.named_parameters())


@torch.no_grad()
def copied(arrays: Arrays, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite weights by what came."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the store may not be written to: it is only read
        for name, array in arrays.items():
            weight = weights[name]
            weight.copy_(torch.from_numpy(array).view(weight.dtype).view(weight.shape))


def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """``Σᵢ i · cᵢ mod 2⁶⁴`` over the checksums of the weights, in their order."""
    sums = checksums(weights.items()).values()
    return sum(place * one for place, one in enumerate(sums, start=1)) % 2**64


def _put(weights: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401 - a reference
    try:
        return ray.put(_arrays(weights))
    except RayError as error:
        size = sum(w.numel() * w.element_size() for w in weights.values()) / 2**30
        raise EngineError(
            f"coordination.mode: Ray's store has no room for {size:.3g} GiB of weights: "
            f"{one_line(error, 80)}"
        ) from error


def _arrays(weights: Mapping[str, torch.Tensor]) -> Arrays:
    """Their bytes; numpy has no bfloat16."""
    return {
        name: weight.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        for name, weight in weights.items()
    }
