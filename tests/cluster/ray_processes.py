"""The processes of actors on this machine, and their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil

from runs import wait_for

ENGINE, REWARD, RANK = "ray::EngineHost", "ray::RewardHost", "ray::TrainerHost"


def actors(title: str) -> list[psutil.Process]:
    """The actors of a class that belong to this test: started by it, or by a process of its."""
    return [p for p in _descendants() if _title(p).startswith(title)]


def killed(title: str, which: int = 0) -> int:
    """Kill an actor, once there is one; returns its process."""
    wait_for(lambda: len(actors(title)) > which)
    process = sorted(actors(title), key=lambda one: one.pid)[which]
    process.kill()
    return process.pid


def _descendants() -> Iterator[psutil.Process]:
    yield from psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
