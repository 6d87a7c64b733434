"""Weights and optimiser state of a learner as files of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

STATE_FILE = "optimizer.safetensors"
WEIGHTS_FILE = "weights.safetensors"


def save_optimiser(directory: Path, optimiser: Optimizer, named: Mapping[str, Parameter]) -> None:
    """Write the moments of each parameter under its name."""
    state = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, parameter in named.items()
        for key, tensor in optimiser.state.get(parameter, {}).items()
    }
    save_file(state, directory / STATE_FILE)


def load_optimiser(directory: Path, optimiser: Optimizer, named: Mapping[str, Parameter]) -> None:
    """Restore what :func:`save_optimiser` wrote."""
    for full_name, tensor in load_file(directory / STATE_FILE).items():
        name, key = full_name.rsplit(".", 1)
        parameter = named[name]
        # Moments follow the weight; Adam's step counter keeps the device that the kernel needs.
        optimiser.state[parameter][key] = tensor.to(parameter.device)


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
