"""Whether there is room for what a check would hold beside the stage."""

from __future__ import annotations

import psutil
import torch

from polopt.diagnose.selfcheck.subject import Subject
from polopt.diagnose.selfcheck.ways import model_of

USABLE = 0.5  # of what is free: activations and buffers are not counted


def lacking(subject: Subject, copies: int, what: str) -> str:
    """Why so many more copies of the models of a stage do not fit; empty where they do."""
    models = {id(m): m for part in subject.parts if (m := model_of(part.scorer)) is not None}
    weights = (weight for model in models.values() for weight in model.parameters())
    needed = copies * sum(weight.numel() * weight.element_size() for weight in weights)
    free = _free(subject.inputs.device)
    if needed <= USABLE * free:
        return ""
    return (
        f"{what} needs {needed >> 20:,} MiB more for weights, at most half of the "
        f"{free >> 20:,} MiB that are free"
    )


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
