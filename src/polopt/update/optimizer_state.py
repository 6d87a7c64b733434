"""Weights and optimiser state of a learner as files of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from polopt.update.optimisers import PARTS, from_parts, parts_of

STATE_FILE = "optimizer.safetensors"
WEIGHTS_FILE = "weights.safetensors"


def save_optimiser(directory: Path, optimiser: Optimizer, named: Mapping[str, Parameter]) -> None:
    """Write the moments of each parameter under its name; those of 8 bits in their parts."""
    state = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, parameter in named.items()
        for key, tensor in _tensors(optimiser.state.get(parameter, {}))
    }
    save_file(state, directory / STATE_FILE)


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
        moments.setdefault((name, key), {})[part] = tensor.to(device)
    for (name, key), parts in moments.items():
        optimiser.state[named[name]][key] = parts[""] if "" in parts else from_parts(parts)


def save_weights(directory: Path, named: Mapping[str, Tensor]) -> None:
    """Write weights under their names."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in named.items()}
    save_file(weights, directory / WEIGHTS_FILE)


@torch.no_grad()
def load_weights(directory: Path, named: Mapping[str, Tensor]) -> None:
    """Restore what :func:`save_weights` wrote."""
    for name, weight in load_file(directory / WEIGHTS_FILE).items():
        named[name].copy_(weight)


def only(named: Mapping[str, Parameter], names: Iterable[str]) -> dict[str, Parameter]:
    """The parameters of some names."""
    return {name: named[name] for name in names}
