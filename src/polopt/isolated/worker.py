"""The process that judges: a line of JSON in, a line of JSON out, until there is no more."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

MEMORY = 4 * 2**30  # bytes of address space
GRACE = 1.0  # seconds after which the system ends a process that nobody has killed


def serve() -> None:
    """Answer questions until the input ends, as it does when the process that asks is gone."""
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        _quiet()
        _bounded()
        judge: Callable[..., Any] | None = None
        with suppress(BrokenPipeError):
            for line in questions:
                if judge is None:
                    name, fixed = json.loads(line)
                    judge = _resolved(name)(*fixed)
                    reply: dict[str, Any] = {"value": None}
                else:
                    reply = _within(judge, *json.loads(line))
                answers.write(json.dumps(reply).encode() + b"\n")
                answers.flush()


def _within(judge: Callable[..., Any], arguments: list[Any], limit: float) -> dict[str, Any]:
    """The reply to one question; the alarm has no handler, so that the system ends the process."""
    signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
    try:
        return {"value": judge(*arguments)}
    except MemoryError:
        return {"memory": f"no verdict within {MEMORY / 2**30:g} GiB"}
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"[:500]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _resolved(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def _quiet() -> None:
    """What packages print goes nowhere: neither into the answers nor to the user."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _bounded() -> None:
    """At most ``MEMORY``, where the system knows how."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
