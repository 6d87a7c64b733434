"""The end of a Ray that we started, however the trainer ends: even killed, it leaves nothing.

Ray's own processes follow a driver that is killed within minutes, and one that stands still does
not. So a small process waits for the end of the trainer, which it sees by its input; whatever has
to do with the directory of the cluster is then killed, and the directory removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_WATCH = "from polopt.cluster.guard import watch; watch()"
SECONDS = 20.0  # for processes to be gone that were killed


class Guard:
    """A process that ends a cluster when this one does, or before.

    Args:
        directory: of the cluster alone.
    """

    def __init__(self, directory: Path) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _WATCH, str(directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # what goes to all processes of a terminal is not for it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def close(self) -> None:
        """End the cluster now; returns when it has ended."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()


def watch() -> None:
    """Wait for the end of the input, then end everything that belongs to the directory."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory, trainer = Path(sys.argv[1]), os.getppid()
    sys.stdin.read()
    deadline = time.monotonic() + SECONDS
    while (left := list(belonging(directory, trainer))) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)  # some start others
    shutil.rmtree(directory, ignore_errors=True)


def belonging(directory: Path, trainer: int) -> Iterator[psutil.Process]:
    """The living processes of a cluster: they were told its directory, or have a file of it open.

    Their environment does not tell: it is overwritten by the names that Ray gives them.

    Args:
        directory: of the cluster.
        trainer: the process that has files of it open, too, and is none of them.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = str(directory) in " ".join(process.cmdline())
            opened = (file.path.removesuffix(" (deleted)") for file in process.open_files())
            own = process.pid in (trainer, os.getpid())
            if not own and (told or any(Path(one).is_relative_to(directory) for one in opened)):
                yield process
