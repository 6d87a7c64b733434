"""Calls a user's function with a time limit, and leaves the global random state as it was."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import threading
import traceback
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polopt.errors import one_line

GRACE = 0.1  # seconds after the deadline at which a coroutine is cancelled
LINE = 240  # characters


@dataclass(frozen=True)
class Returned:
    """The function returned a value."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The function raised, or was still running at the deadline."""

    error: BaseException
    late: bool = False  # it was still running: the error is a ``TimeoutError`` made here


def call(
    function: Callable[..., Any], arguments: Mapping[str, Any], timeout: float, seed: int
) -> Returned | Raised:
    """Call a function, or run a coroutine to its end, within ``timeout`` seconds.

    The function runs in a thread of its own, with the global generators of ``random``, numpy and
    torch set to ``seed``; they and the working directory are put back afterwards. A coroutine gets
    an event loop of its own in every call, so objects bound to a loop must be made inside it.

    Limits of a thread: a function that hangs is abandoned, not stopped (a coroutine that awaits is
    cancelled), so it keeps its memory and its core, and may still draw from the global generators.
    C code that holds the interpreter's lock delays the deadline. A crash of the interpreter
    (``os._exit``, a segmentation fault) ends the run. Signal handlers, such as ``signal.alarm``,
    belong to the main thread and are refused by Python here.

    Args:
        function: any callable; exceptions of its own, ``SystemExit`` and ``KeyboardInterrupt`` too,
            are returned as ``Raised``. An interrupt by the user is raised here.
        arguments: by name.
        timeout: seconds.
        seed: of the global generators during the call.
    """
    outcome: list[Returned | Raised] = []

    def target() -> None:
        try:
            value = function(**arguments)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value, timeout + GRACE))
            outcome.append(Returned(value))
        except BaseException as error:
            outcome.append(Raised(error))

    with undisturbed(seed):
        thread = threading.Thread(target=target, name="polopt reward", daemon=True)
        thread.start()
        thread.join(min(timeout, threading.TIMEOUT_MAX))
    if not outcome:
        return Raised(TimeoutError(f"no answer within {timeout:g} s"), late=True)
    return outcome[0]


async def _awaited(value: Awaitable[Any], timeout: float) -> Any:  # noqa: ANN401
    async with asyncio.timeout(timeout):
        return await value


def told(error: BaseException) -> str:
    """An exception as ``ValueError: its message``, even where making the message fails."""
    return one_line("".join(traceback.format_exception_only(error)), LINE)


@contextmanager
def undisturbed(seed: int) -> Generator[None]:
    """Set the global generators to ``seed``; restore them and the working directory at the end."""
    state, array_state, directory = random.getstate(), np.random.get_state(), os.getcwd()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(array_state)
            os.chdir(directory)
