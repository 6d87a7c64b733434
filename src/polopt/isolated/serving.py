"""The process in which a user's reward functions run: what is done there before and in a call."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from loky import process_executor

from polopt.isolated.calls import Raised, Returned, called, told
from polopt.isolated.origins import Origin, found

HANDLED = (signal.SIGINT, signal.SIGTERM)
LIVES = 1.0  # seconds between two looks at whether the trainer is there
GRACE = 1.0  # seconds after which the system ends a process that nobody has killed
SAID = 2**16  # characters of what a function prints in one call
_FUNCTIONS: list[Callable[..., Any]] = []


def begin(trainer: int, safe_path: str | None) -> None:
    """Make a new process one that serves.

    Interrupts and requests to end go to all processes of a terminal or a job: what to do about them
    is for the trainer to say. A handler is not inherited by what a function starts, as ``SIG_IGN``
    would be. The trainer's output may be JSON, so all output goes to its errors.

    Args:
        trainer: the process to end with.
        safe_path: ``PYTHONSAFEPATH`` of the trainer.
    """
    for number in HANDLED:
        signal.signal(number, _ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    os.dup2(2, 1)
    os.environ.pop("PYTHONSAFEPATH")
    if safe_path is not None:
        os.environ["PYTHONSAFEPATH"] = safe_path
    # Else loky replaces a process that has grown, and what a function keeps is loaded again.
    process_executor._USE_PSUTIL = False  # pyright: ignore[reportPrivateUsage]
    seed_imports()
    threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()


def seed_imports() -> None:
    """From now on the generators of packages follow the seed of the call that imports them."""
    sys.meta_path.insert(0, _Seeds)


def _ignored(number: int, frame: object) -> None: ...


def _end_with(trainer: int) -> None:
    """End this process when the trainer is gone, however it ended."""
    while os.getppid() == trainer:
        time.sleep(LIVES)
    os._exit(1)


def load(origin: Origin, limit: float) -> str | None:
    """Make a function known, as the next number; what went wrong, on one line."""
    _seed(0)
    _limited(limit)
    try:
        _FUNCTIONS.append(found(origin))
        return None
    except BaseException as error:
        return told(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(
    number: int, arguments: Mapping[str, Any], seed: int, timeout: float, directory: str
) -> tuple[Returned | Raised, str]:
    """Call a function by its number; what came of it, and what it printed."""
    said = _Said()
    os.chdir(directory)
    _seed(seed)
    _limited(timeout)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            answer = called(_FUNCTIONS[number], arguments, timeout)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return replace(answer, error=None) if isinstance(answer, Raised) else answer, said.getvalue()


def _limited(limit: float) -> None:
    """Have the system end this process after the limit, should the trainer be gone by then."""
    signal.setitimer(signal.ITIMER_REAL, min(limit, threading.TIMEOUT_MAX) + GRACE)


class _Said(io.StringIO):
    """Keeps the beginning of what is printed."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, SAID - self.tell())])
        return len(text)


_GENERATORS: dict[str, Callable[[Any, int], Any]] = {
    "numpy": lambda module, seed: module.random.seed(seed % 2**32),
    "torch": lambda module, seed: module.manual_seed(seed),
}


def _seed(seed: int) -> None:
    """Set the global generators; those of packages that are imported later follow then."""
    _Seeds.seed = seed
    random.seed(seed)
    for name, generator in _GENERATORS.items():
        if name in sys.modules:
            generator(sys.modules[name], seed)


class _Seeds:
    """A finder of modules: the generator of a package is set at the end of its import."""

    seed = 0  # of the call that goes on

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification that the other finders have, with a loader that also sets the seed."""
        if name not in _GENERATORS:
            return None
        sys.meta_path.remove(cls)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, cls)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run_module(module)
                _GENERATORS[name](module, cls.seed)

            spec.loader.exec_module = exec_module
        return spec
