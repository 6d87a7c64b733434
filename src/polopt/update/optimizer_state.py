"""Weights and optimiser state of a learner as files of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from polopt.models import streamed
from polopt.models.sharded import share
from polopt.update.optimisers import PARTS, from_parts, parts_of

STATE_FILE = "optimizer.safetensors"
WEIGHTS_FILE = "weights.safetensors"


def save_optimiser(directory: Path, optimiser: Optimizer, named: Mapping[str, Parameter]) -> None:
    """Write the moments of each parameter under its name; those of 8 bits in their parts."""
    state = {
        f"{name}.{key}": tensor
        for name, parameter in named.items()
        for key, tensor in _tensors(optimiser.state.get(parameter, {}))
    }
    streamed.write(directory / STATE_FILE, state)


def _tensors(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in state.items():
        parts = parts_of(tensor)
        yield from ((f"{key}.{name}", part) for name, part in parts.items())
        if not parts:
            yield key, tensor


def load_optimiser(directory: Path, optimiser: Optimizer, named: Mapping[str, Parameter]) -> None:
    """Restore what :func:`save_optimiser` wrote."""
    moments = dict[tuple[str, str], dict[str, Tensor]]()
    for full_name, tensor in load_file(directory / STATE_FILE).items():
        name, key = full_name.rsplit(".", 1)
        part = ""
        if key in PARTS:
            part, (name, key) = key, name.rsplit(".", 1)
        # Moments follow the weight; Adam's step counter keeps the device that the kernel needs.
        follows = key != "step" or optimiser.defaults.get("fused")
        device = named[name].device if follows else tensor.device
        moved = tensor.to(device)
        # Whole in the file, so that any number of ranks may load it.
        moments.setdefault((name, key), {})[part] = (
            share(moved, named[name]) if tensor.shape == named[name].shape else moved
        )
    for (name, key), parts in moments.items():
        optimiser.state[named[name]][key] = parts[""] if "" in parts else from_parts(parts)


def save_weights(directory: Path, named: Mapping[str, Tensor]) -> None:
    """Write weights under their names."""
    streamed.write(directory / WEIGHTS_FILE, named)


@torch.no_grad()
def load_weights(directory: Path, named: Mapping[str, Tensor]) -> None:
    """Restore what :func:`save_weights` wrote."""
    for name, weight in load_file(directory / WEIGHTS_FILE).items():
        named[name].copy_(share(weight.to(named[name].device), named[name]))


def only(named: Mapping[str, Parameter], names: Iterable[str]) -> dict[str, Parameter]:
    """The parameters of some names."""
    return {name: named[name] for name in names}
