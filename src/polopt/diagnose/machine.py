"""The memory of the device that a run would use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from polopt.errors import RecipeError
from polopt.memory.work import GIB, Device

_CGROUP = Path("/sys/fs/cgroup")


def told(gigabytes: float, flag: str = "--device-memory") -> Device:
    """A CUDA device of so many GB, which card makers count as GiB; it need not be here.

    Raises:
        RecipeError: no positive number.
    """
    if not 0 < gigabytes < 1 << 20:
        raise RecipeError(f"{flag}: {gigabytes:g} is not allowed; GiB of a card, above 0")
    return Device("cuda", int(gigabytes * GIB), f"a card of {gigabytes:g} GiB", predicted=True)


def found(name: str, threads: int | None = None) -> Device | None:
    """The device that a run would use; None: this machine does not have it. Imports torch.

    Args:
        name: of ``run.device``.
        threads: of ``run.threads``.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        if int(index or 0) >= torch.cuda.device_count():
            return None
        free, _ = torch.cuda.mem_get_info(int(index or 0))
        title = torch.cuda.get_device_name(int(index or 0))
        return Device("cuda", free, title)
    if kind == "mps":
        if not torch.backends.mps.is_available():
            return None
        return Device("mps", torch.mps.recommended_max_memory(), "mps")
    return Device("cpu", available(), "the processor", threads=threads or torch.get_num_threads())


def peak(kind: str) -> int:
    """The most that this process has held: of tensors on CUDA, elsewhere all of its main memory.

    Args:
        kind: of the device of the run.
    """
    import torch

    if kind == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available() -> int:
    """Bytes of main memory that a process may still take: of the machine, or of its container."""
    return min(_of_machine(), _of_container())


def _of_machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_container() -> int:
    """What is left of the limit of a container; without one, more than any machine has."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        cached = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 1 << 62
    if limit == "max":
        return 1 << 62
    files = next((int(line.split()[1]) for line in cached if line.startswith("file ")), 0)
    return max(0, int(limit) - used + files)  # files that are cached make room
