"""Processes that are asked one question at a time, and killed where an answer is late."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from multiprocessing.connection import wait
from queue import LifoQueue
from typing import Any, Protocol, cast

LIMIT = 5.0  # seconds for one answer; a usual one takes a few thousandths
START = 300.0  # seconds to import what judges, on a busy machine too
CONCURRENT = max(1, min(4, os.cpu_count() or 1))  # processes of one pool
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # for the kernels of numpy
_SERVE = "from polopt.isolated.worker import serve; serve()"
_POOLS: list[Pool] = []


class DiedError(ChildProcessError):
    """A process died over an answer: the interpreter crashed, or the system ran out of memory."""


class Process(Protocol):
    """A process that is asked one question at a time."""

    alive: bool

    def ask(self, arguments: tuple[Any, ...], limit: float) -> Any:  # noqa: ANN401
        """Its answer within a limit in seconds; where there is none it is no longer alive."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


@cache
def pool(prepare: str, *fixed: str) -> Pool:
    """The pool of processes that judge, one for all that ask with these arguments.

    Questions and answers are JSON: neither side runs what the other one sends.

    Args:
        prepare: ``module:function``; called in a new process, it returns the function that judges.
        fixed: its arguments.
    """
    return Pool(partial(_Process, prepare, fixed))


def close() -> None:
    """End the processes of every pool. A pool that is asked again starts new ones."""
    for one in _POOLS:
        one.close()


atexit.register(close)


class Pool:
    """So many processes, each started when it is first needed.

    It may be asked from several threads.

    Args:
        start: makes a process.
        most: of them at a time; None: ``CONCURRENT``.
    """

    def __init__(self, start: Callable[[], Process], most: int | None = None) -> None:
        self._start = start
        self._idle: LifoQueue[Process | None] = LifoQueue()
        self._busy = set[Process]()
        self.most = most or CONCURRENT
        for _ in range(self.most):
            self._idle.put(None)
        _POOLS.append(self)

    def ask(self, *arguments: Any, limit: float = LIMIT) -> Any:  # noqa: ANN401
        """What the function says of the arguments.

        Raises:
            TimeoutError: there was no answer within ``limit`` seconds; the process is killed.
            MemoryError: it took more memory than a process may.
            DiedError: the process died.
            RuntimeError: the function raised, or its process does not start.
        """
        process = self._idle.get()
        try:
            process = process or self._start()
            self._busy.add(process)
            return process.ask(arguments, limit)
        finally:
            if process is not None:
                self._busy.discard(process)
            self._idle.put(process if process is not None and process.alive else None)

    def stop(self) -> None:
        """Kill the processes that have not answered yet; whoever waits gets an exception."""
        for process in list(self._busy):
            process.kill()

    def close(self) -> None:
        """End the processes, each when it has answered."""
        for process in [self._idle.get() for _ in range(self.most)]:
            if process is not None:
                process.kill()
            self._idle.put(None)


class _Process:
    """One process; it is killed whenever what it says next is unknown."""

    def __init__(self, prepare: str, fixed: tuple[str, ...]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # an interrupt from the keyboard is for the run alone
        )
        self.alive = True
        try:
            self._ask([prepare, fixed], START)
        except (TimeoutError, MemoryError, DiedError) as error:
            raise RuntimeError(f"{prepare} does not start: {error}") from error

    def ask(self, arguments: tuple[Any, ...], limit: float) -> Any:  # noqa: ANN401
        return self._ask([arguments, limit], limit)

    def kill(self) -> None:
        self.alive = False
        self._popen.kill()
        self._popen.communicate()

    def _ask(self, message: Any, limit: float) -> Any:  # noqa: ANN401
        try:
            reply = self._reply(json.dumps(message).encode() + b"\n", limit)
        except BaseException:  # an interrupt too: the next answer would be that to this question
            self.kill()
            raise
        if "memory" in reply:
            raise MemoryError(reply["memory"])
        if "raised" in reply:
            raise RuntimeError(reply["raised"])
        return reply["value"]

    def _reply(self, message: bytes, limit: float) -> dict[str, Any]:
        sent, received = self._popen.stdin, self._popen.stdout
        assert sent is not None and received is not None
        try:
            sent.write(message)
            sent.flush()
        except BrokenPipeError as error:
            raise DiedError("the process that judges died") from error
        if not wait([received.fileno()], limit):
            raise TimeoutError(f"no verdict within {limit:g} s")
        line = received.readline()
        if not line.endswith(b"\n"):
            raise DiedError("the process that judges died")
        return cast("dict[str, Any]", json.loads(line))


def _environment() -> dict[str, str]:
    """That of this process, with its import path."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": path}
