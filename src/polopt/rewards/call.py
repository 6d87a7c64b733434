"""Calls a user's function in this process, and leaves the global random state as it was."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from polopt.isolated.calls import Raised, Returned, called, late

_ALONE = threading.Lock()  # the random state and the working directory are those of the process


def call(
    function: Callable[..., Any], arguments: Mapping[str, Any], timeout: float, seed: int
) -> Returned | Raised:
    """Call a function, or run a coroutine to its end, within ``timeout`` seconds.

    For what no other process can have, see :func:`polopt.isolated.origins.origin_of`: everything
    else runs in :func:`polopt.isolated.workers.call`.

    The function runs in a thread of its own, with the global generators of ``random``, numpy and
    torch set to ``seed``; they and the working directory are put back afterwards. So nothing else
    may draw from them meanwhile, and calls wait for each other.

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
        outcome.append(called(function, arguments, timeout))

    with _ALONE, undisturbed(seed):
        thread = threading.Thread(target=target, name="polopt reward", daemon=True)
        thread.start()
        thread.join(min(timeout, threading.TIMEOUT_MAX))
    return outcome[0] if outcome else late(timeout)


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
