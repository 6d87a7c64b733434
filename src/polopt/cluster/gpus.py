"""The trainer's own GPU: no actor may get it, and Ray does not know that the trainer has it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from polopt.errors import EngineError

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE = 60.0  # seconds for an actor that holds a GPU


def name_of(device: torch.device) -> str | None:
    """The name that Ray has for a GPU, by ``CUDA_VISIBLE_DEVICES``; None: it is no GPU."""
    if device.type != "cuda":
        return None
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    index = device.index or 0
    return named[index] if named else str(index)


class Holder:
    """An actor that has a GPU and does nothing with it."""

    def names(self) -> list[str]:
        """Which one."""
        import ray

        return [str(name) for name in ray.get_gpu_ids()]


@contextmanager
def reserved(name: str) -> Generator[None]:
    """Inside, Ray gives the GPU of that name on this node to nobody.

    Raises:
        EngineError: others have it.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder: Any = ray.remote(Holder)
    holder = holder.options(num_gpus=1, num_cpus=0, scheduling_strategy=here)
    held = list[Any]()
    try:
        while True:  # Ray chooses which
            held.append(holder.remote())
            try:
                found = ray.get(held[-1].names.remote(), timeout=PATIENCE)
            except GetTimeoutError as error:
                raise EngineError(
                    f"run.device: GPU {name} is in use: Ray has given it to somebody else"
                ) from error
            if found == [name]:
                break
        for other in held[:-1]:
            ray.kill(other)
        del held[:-1]
        yield
    finally:
        for one in held:
            ray.kill(one)
