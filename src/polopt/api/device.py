"""The device that a name means on this machine."""

from __future__ import annotations

import os

import torch

from polopt.api import arguments
from polopt.errors import RecipeError, counted
from polopt.ranks import Place


def device_of(name: str, field: str = "run.device", *, place: Place | None = None) -> torch.device:
    """The device of a name; ``auto`` is the first accelerator there is.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        field: that holds it, for messages.
        place: among several ranks, of which each gets a GPU of its own.

    Raises:
        RecipeError: no name of a device, or one that this machine does not have.
    """
    arguments.check("run", {"device": name}, names={"device": field})
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = count.get(device.type, 1)
    if (device.index or 0) >= available:
        raise RecipeError(
            f"{field}: {name!r} is not there; this machine has {available} of that kind"
        )
    return device if place is None else _of_rank(device, field, place)


def _of_rank(device: torch.device, field: str, place: Place) -> torch.device:
    """The device of one of several ranks.

    Raises:
        RecipeError: fewer devices than ranks on this machine, or a device by number.
    """
    if device.type == "mps" or ":" in str(device):  # torch types no index as a number
        raise RecipeError(
            f"{field}: '{device}' is not allowed with {place.size} ranks; cpu, cuda or auto"
        )
    is_gpu = device.type == "cuda"
    count = torch.cuda.device_count() if is_gpu else os.cpu_count() or 1
    if place.local_size > count:
        raise RecipeError(
            f"torchrun: {place.local_size} ranks on a machine with "
            f"{counted(count, 'GPU' if is_gpu else 'processor')}; one for each rank"
        )
    if not is_gpu:
        return device
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def use(device: torch.device) -> torch.device:
    """Let products of what stays in float32 take the fast form of an NVIDIA GPU, TF32.

    Nearly all products are in bfloat16 there; what is left would take eight times as long.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device
