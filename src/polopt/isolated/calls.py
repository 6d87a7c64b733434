"""What came of a call of a user's function, as plain data that may cross to another process."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from polopt.errors import one_line

GRACE = 0.1  # seconds after the deadline at which a coroutine is cancelled
LINE = 240  # characters


@dataclass(frozen=True)
class Other:
    """In the place of a value that is no number, list or None: what it is."""

    text: str  # such as "a value of type dict"


@dataclass(frozen=True)
class Returned:
    """The function returned a value."""

    value: Any  # as ``plain`` has it


@dataclass(frozen=True)
class Raised:
    """The function raised, its process died, or it was still running at the deadline."""

    text: str  # on one line
    kind: str  # of exceptions by name, so that two of them can be compared
    memory: bool = False  # there was not enough of it
    late: bool = False  # it was still running
    error: BaseException | None = None  # where it was raised in this process


def called(
    function: Callable[..., Any], arguments: Mapping[str, Any], timeout: float
) -> Returned | Raised:
    """Call a function, or run a coroutine to its end; every exception becomes ``Raised``.

    A coroutine gets an event loop of its own in every call, so objects bound to a loop must be made
    inside it. It is cancelled ``GRACE`` seconds after the deadline.
    """
    try:
        value = function(**arguments)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value, timeout + GRACE))
        return Returned(plain(value))
    except BaseException as error:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        text = f"raised {told(error)}{_place(function, error)}"
        return Raised(text, kind, memory=isinstance(error, MemoryError), error=error)


async def _awaited(value: Awaitable[Any], timeout: float) -> Any:  # noqa: ANN401
    async with asyncio.timeout(timeout):
        return await value


def late(timeout: float) -> Raised:
    """What is said of a call that gave no answer in time."""
    return Raised(f"no answer within {timeout:g} s", "", late=True)


def told(error: BaseException) -> str:
    """An exception as ``ValueError: its message``, even where making the message fails."""
    return one_line("".join(traceback.format_exception_only(error))[: 10 * LINE], LINE)


def _place(function: Callable[..., Any], error: BaseException) -> str:
    """`` (my_reward.py:3)``: the last line of the function's own file in the traceback."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def plain(value: Any, keep: type | tuple[type, ...] = ()) -> list[Any] | Other:  # noqa: ANN401
    """A returned list, tuple or one-dimensional array in numbers and lists of Python.

    Booleans stay booleans, other numbers become floats (infinite beyond their range), None stays.
    Arrays and tensors are known by ``ndim``: neither numpy nor torch is imported for them.

    Args:
        value: that a function returned.
        keep: instances of these stay as they are.
    """
    listed = _listed(value)
    return Other(_kind(value)) if listed is None else [_item(item, keep) for item in listed]


def _listed(value: Any) -> list[Any] | tuple[Any, ...] | None:  # noqa: ANN401
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, list | tuple) else None


def _item(item: Any, keep: type | tuple[type, ...]) -> Any:  # noqa: ANN401
    if getattr(item, "ndim", None) == 0 and hasattr(item, "item"):
        item = item.item()
    kept = item is None or isinstance(item, bool)
    if kept or isinstance(item, keep):
        return item
    if not isinstance(item, Real):
        return plain(item, keep)
    try:
        return float(item)
    except OverflowError:
        return math.inf


def _kind(value: object) -> str:
    if hasattr(value, "ndim") and hasattr(value, "shape"):
        return f"values of shape {tuple(getattr(value, 'shape'))}"  # noqa: B009 - of any array
    return "None" if value is None else f"a value of type {type(value).__name__}"
