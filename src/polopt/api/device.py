"""The device that a name means on this machine."""

from __future__ import annotations

import torch

from polopt.api import arguments
from polopt.errors import RecipeError


def device_of(name: str, field: str = "run.device") -> torch.device:
    """The device of a name; ``auto`` is the first accelerator there is.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        field: that holds it, for messages.

    Raises:
        RecipeError: no name of a device, or one that this machine does not have.
    """
    arguments.check("run", {"device": name}, names={"device": field})
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = count.get(device.type, 1)
    if (device.index or 0) >= available:
        raise RecipeError(
            f"{field}: {name!r} is not there; this machine has {available} of that kind"
        )
    return device


def use(device: torch.device) -> torch.device:
    """Let products of what stays in float32 take the fast form of an NVIDIA GPU, TF32.

    Nearly all products are in bfloat16 there; what is left would take eight times as long.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device
