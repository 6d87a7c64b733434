"""Out of memory on a device, in one line: where, what was planned, what takes less."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from polopt.errors import DeviceMemoryError, one_line
from polopt.memory.plan import gib
from polopt.record import RunDirectory, begun

ON_PROCESSOR = "with --run.device cpu it computes in main memory"
"""Where no field decides how much is held."""
WITHOUT_GPU = "with CUDA_VISIBLE_DEVICES= it computes in main memory"
"""The same of a command that takes no fields."""


@contextmanager
def told(phase: str, less: str) -> Generator[None]:
    """Say where memory ran out, outside of a run, and what takes less.

    Raises:
        DeviceMemoryError: in the place of torch's own error.
    """
    with _told(phase, lambda: less):
        yield


@contextmanager
def told_in(run: RunDirectory, stage: str, phase: str) -> Generator[None]:
    """The same in a stage of a run: with what its plan says of the phase, and how to go on.

    What could be halved has been, and a run resumes with the settings that it has.

    Raises:
        DeviceMemoryError: in the place of torch's own error.
    """

    def advice() -> str:
        recorded = next(one for one in run.config["stages"] if one["name"] == stage)
        less = f"a run with {_less(recorded, phase)} takes less, polopt check says what is needed"
        said = [planned(recorded.get("memory"), phase), less]
        if begun(run.path):
            said[-1] += f", and with more of it free this one goes on: polopt resume {run.path}"
        return "; ".join(filter(None, said))

    with _told(phase, advice):
        yield


@contextmanager
def _told(phase: str, advice: Callable[[], str]) -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = one_line(str(error).split(". ")[0], 120)
        raise DeviceMemoryError(
            f"{phase}: the device is out of memory ({reason}); {advice()}"
        ) from error


def planned(plan: Mapping[str, Any] | str | None, phase: str) -> str:
    """What a recorded plan says of a phase of the loop, ``planned 12.3 GiB of 14.0 GiB``.

    Of a phase that the plan has in parts it is the largest of them. Empty where there is no plan.
    """
    if not isinstance(plan, Mapping):
        return ""
    sizes = [size for name, parts in plan["phases"].items() if (size := _held(phase, name, parts))]
    return f"planned {gib(max(sizes))} of {gib(plan['device']['usable'])}" if sizes else ""


def _held(phase: str, name: str, parts: Mapping[str, int]) -> int:
    """Bytes of a part of a plan that belongs to a phase of the loop; 0: it does not."""
    match phase:
        case "update":
            mine = name == "log-probs" or name.startswith("update of ")
        case "checkpoint" | "publish":
            mine = name == "save"
        case "building":  # moments come with the first step, copies with the first save
            parts = {part: size for part, size in parts.items() if part not in _LATER}
            mine = name == "save"
        case _:
            mine = name == phase
    return sum(parts.values()) if mine else 0


_LATER = ("optimiser", "copies")


def _less(stage: Mapping[str, Any], phase: str) -> str:
    """A setting with which a phase of the recorded stage takes less memory."""
    settings: Mapping[str, Any] = stage["settings"]  # those that have an effect and a value
    if phase in ("rollout", "evaluation") and "rollout.engine" in settings:
        return "a smaller rollout.rows"
    if phase in ("update", "evaluation"):
        return "a smaller update.micro_batch_tokens"
    if "network.hidden" in settings:
        return "a smaller network.hidden"
    if settings.get("coordination.engines", 1) > 1:
        return "fewer coordination.engines"
    adapts = "model.lora" in settings or "model.dtype" not in settings  # in control
    return "a smaller model.path" if adapts else "model.lora"
