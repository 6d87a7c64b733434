"""Worker processes for the reward functions of a user, each an executor of loky with one process.

An executor ends all of its processes when one of them dies; with one process in each, a crash or a
function that hangs costs that process alone. loky does not run the script of the trainer again, as
``multiprocessing`` does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor, TerminatedWorkerError

from polopt.isolated.calls import Raised, Returned, late
from polopt.isolated.origins import Origin
from polopt.isolated.processes import ONE_THREAD, START, DiedError, Pool, Process
from polopt.isolated.serving import HANDLED, begin, load, run


class UnloadableError(Exception):
    """A worker cannot import the module, or run the file, of a function."""


class _GoneError(Exception):
    """A process ended while it had nothing to do."""


class Worker:
    """One process, with the functions that it was asked for."""

    def __init__(self) -> None:
        self.alive = True
        self._start()

    def ask(
        self, arguments: tuple[Origin, Mapping[str, Any], int], limit: float
    ) -> Returned | Raised:
        """Call a function, given by ``(origin, arguments, seed)``; see :func:`call`."""
        try:
            return self._answer(*arguments, limit)
        except _GoneError:
            self._start()
            return self._answer(*arguments, limit)

    def kill(self) -> None:
        """End the process, and what it has started."""
        self.alive = False
        self._executor.shutdown(wait=True, kill_workers=True)

    def _start(self) -> None:
        self._executor = ProcessPoolExecutor(
            1,
            initializer=begin,
            initargs=(os.getpid(), os.environ.get("PYTHONSAFEPATH")),
            env=environment(),
        )
        self._numbers: dict[Origin, int] = {}
        # What goes to all processes must not reach this one before it has handlers.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            started = self._submitted(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        try:
            self._result(started, START)
        except (TimeoutError, DiedError) as error:
            raise RuntimeError(f"a worker for rewards does not start: {error}") from error

    def _answer(
        self, origin: Origin, arguments: Mapping[str, Any], seed: int, limit: float
    ) -> Returned | Raised:
        number = self._number(origin)
        asked = self._submitted(run, number, arguments, seed, limit, os.getcwd())
        answer, said = self._result(asked, limit)
        if said:
            sys.stderr.write(said)
        return answer

    def _number(self, origin: Origin) -> int:
        """The number of a function, which is loaded where it was not yet.

        Raises:
            UnloadableError: it cannot be.
        """
        if origin not in self._numbers:
            try:
                problem = self._result(self._submitted(load, origin, START), START)
            except TimeoutError:
                problem = f"it takes more than {START:g} s"
            except DiedError as error:
                problem = str(error)
            if problem is not None:
                raise UnloadableError(problem)
            self._numbers[origin] = len(self._numbers)
        return self._numbers[origin]

    def _submitted(
        self,
        function: Callable[..., Any],
        *arguments: Any,  # noqa: ANN401
    ) -> Future[Any]:
        try:
            return self._executor.submit(function, *arguments)
        except BrokenProcessPool as error:
            raise _GoneError from error

    def _result(self, future: Future[Any], limit: float) -> Any:  # noqa: ANN401
        try:
            return future.result(min(limit, threading.TIMEOUT_MAX))
        except TerminatedWorkerError as error:
            self.kill()
            raise DiedError(_how(error)) from error
        except BaseException:  # late, or an interrupt
            self.kill()
            raise


def environment() -> dict[str, str]:
    """What differs in the environment of a worker from that of this process.

    A file of the working directory must not stand in for one of Python's while a process starts.
    Text has one hash in all processes, so that the order of a set does not depend on which. A crash
    is one line; with ``PYTHONFAULTHANDLER`` set its stack is printed too.
    """
    kept = {"PYTHONHASHSEED": "0", "PYTHONFAULTHANDLER": ""}
    kept = {name: os.environ.get(name, value) for name, value in kept.items()}
    return {**ONE_THREAD, **kept, "PYTHONSAFEPATH": "1"}


def _how(error: BaseException) -> str:
    """How a process ended; loky says it in its message alone, as ``SIGSEGV(-11)``, ``EXIT(3)``."""
    ended = re.search(r"(\w+)\((-?\d+)\)", str(error))
    if ended is None:
        return "its process died"
    name, code = ended[1], int(ended[2])
    if code >= 0:
        return f"its process ended with exit code {code}"
    memory = ", as where memory runs out" if code == -signal.SIGKILL else ""
    return f"its process died by signal {-code} ({name}{memory})"


_pool = Pool(Worker)


@contextmanager
def served_by(start: Callable[[], Process], most: int) -> Generator[None]:
    """Inside, functions run in so many processes that ``start`` makes, wherever those are."""
    global _pool
    before, _pool = _pool, Pool(start, most)
    try:
        yield
    finally:
        _pool.close()
        _pool = before


def call(
    origin: Origin, arguments: Mapping[str, Any], timeout: float, seed: int
) -> Returned | Raised:
    """Call a function, or run a coroutine to its end, in a worker process.

    The process has the global generators of ``random``, numpy and torch set to ``seed``, and the
    working directory of the trainer. Where the function does not answer in time it is killed, and
    another process takes the next call. What it prints is written to stderr afterwards.

    Args:
        origin: where the function is.
        arguments: by name.
        timeout: seconds; loading the function is not counted.
        seed: of the call.

    Raises:
        UnloadableError: the function cannot be loaded there.
    """
    try:
        return _pool.ask(origin, arguments, seed, limit=timeout)
    except TimeoutError:
        return late(timeout)
    except DiedError as error:
        return Raised(str(error), kind=str(error))


def most() -> int:
    """How many calls run at a time."""
    return _pool.most


def stop() -> None:
    """Kill the workers that have not answered yet; those who wait for them get an exception."""
    _pool.stop()
