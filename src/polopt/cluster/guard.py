"""The end of a Ray that we started, however the trainer ends: even killed, it leaves nothing.

Ray's own processes follow a driver that is killed within minutes, and one that stands still does
not. So a small process waits for the end of the trainer, which it sees by its input; whatever has
its output in the directory of the cluster is then killed, and the directory removed.
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
    directory = Path(sys.argv[1])
    sys.stdin.read()
    deadline = time.monotonic() + SECONDS
    while (left := list(belonging(directory))) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)  # some start others
    shutil.rmtree(directory, ignore_errors=True)


def belonging(directory: Path) -> Iterator[psutil.Process]:
    """The living processes of a cluster: Ray tells them its directory, or has their output there.

    Their environment does not tell: it is overwritten by the names that Ray gives them.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            outputs = (file.path for file in process.open_files() if file.fd in (1, 2))
            told = str(directory) in " ".join(process.cmdline()) and process.pid != os.getpid()
            if told or any(Path(path).is_relative_to(directory) for path in outputs):
                yield process
