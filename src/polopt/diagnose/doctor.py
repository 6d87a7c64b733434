"""What this machine offers: Python, torch, devices, memory, disk, optional extras."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

EXTRAS = {
    "control": ("gymnasium", "mujoco", "imageio"),
    "tasks": ("reasoning-gym",),
    "math": ("math-verify",),
    "lora": ("peft",),
    "8bit": ("torchao",),
    "track": ("tensorboard", "wandb", "trackio"),
    "vllm": ("vllm",),
    "cluster": ("ray",),
}
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One property of this machine."""

    subject: str
    value: str
    advice: str = ""  # what to do about it; empty: nothing to do


def doctor(directory: Path = Path()) -> list[Finding]:
    """The findings about this machine; imports torch.

    Args:
        directory: where runs will be written; the free space of its disk is reported.
    """
    return [
        Finding("polopt", metadata.version("polopt")),
        Finding("python", f"{platform.python_version()} at {sys.executable}"),
        Finding("platform", platform.platform()),
        *_torch(),
        Finding("memory", _memory()),
        _disk(directory),
        *(_extra(name, packages) for name, packages in EXTRAS.items()),
    ]


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", torch.__version__)
    for package in ("transformers", "datasets", "safetensors"):
        yield Finding(package, metadata.version(package))
    yield Finding("processor", f"{_cores()} cores, {torch.get_num_threads()} torch threads")
    yield from _devices(torch)
    yield _engine(torch)


def _devices(torch: Any) -> Iterator[Finding]:  # noqa: ANN401
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / _GIB:.0f} GiB"
        yield Finding(f"cuda:{index}", f"{properties.name}, {memory}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")
    if not torch.cuda.device_count() and not torch.backends.mps.is_available():
        yield Finding("accelerator", "none; runs use the processor")


def _engine(torch: Any) -> Finding:  # noqa: ANN401
    """What ``rollout.engine = "auto"`` means here."""
    from polopt.rollout.engines.choose import chosen

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = chosen("auto", device, samples=True)
    return Finding("engine", f"{found.engine}: {found.why}", found.advice)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # cores that this process may use, not all there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    known = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= known.keys():
        return "unknown"
    page = os.sysconf("SC_PAGE_SIZE")
    text = f"{page * os.sysconf('SC_PHYS_PAGES') / _GIB:.1f} GiB"
    if "SC_AVPHYS_PAGES" in known:
        text += f", {page * os.sysconf('SC_AVPHYS_PAGES') / _GIB:.1f} GiB unused"
    return text


def _disk(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free / _GIB
    advice = "less than 1 GiB; checkpoints need room" if free < 1 else ""
    return Finding("disk", f"{free:.1f} GiB free in {directory.resolve()}", advice)


def _extra(name: str, packages: tuple[str, ...]) -> Finding:
    """All packages of an extra with their versions, or how to install it."""
    found = {package: _version(package) for package in packages}
    value = ", ".join(f"{package} {version or 'missing'}" for package, version in found.items())
    advice = "" if all(found.values()) else f'pip install "polopt[{name}]"'
    return Finding(f"extra {name}", value, advice)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
