"""Reward functions from where a recipe names them: a local Python file, or a verifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from polopt import isolated
from polopt.errors import DataError, RewardError, did_you_mean
from polopt.isolated.calls import told
from polopt.isolated.origins import Origin, module_of
from polopt.places import no_file
from polopt.recipe import shown
from polopt.rewards.call import undisturbed
from polopt.rewards.values import Problem
from polopt.types import Outcome

Verify = Callable[[str, Mapping[str, Any]], float]


@dataclass(frozen=True)
class FromFile:
    """A function of a file, here and for other processes."""

    function: Callable[..., Any]
    origin: Origin


def from_file(path: str, function: str) -> FromFile:
    """The callable named ``function`` of a local Python file; the file is run.

    Raises:
        RewardError: there is no such file, it cannot be run, or it defines no such callable.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RewardError(f"reward.file: {path!r} {no_file(file)}")
    source = file.read_bytes()
    module = _run(file, source)
    found = getattr(module, function, None)
    if callable(found):
        return FromFile(found, Origin(function, path=str(file.resolve()), source=source))
    if found is not None:
        kind = type(found).__name__
        raise RewardError(f"reward.function: {function!r} in {path} is of type {kind}; a callable")
    own = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    known = [n for n in own if getattr(getattr(module, n), "__module__", "") == module.__name__]
    hint = did_you_mean(function, known, f"it defines: {', '.join(known) or 'nothing'}")
    raise RewardError(f"reward.function: {function!r} is not defined in {path}; {hint}")


def from_verifier(
    verify: Verify, timeout: float = 60.0, concurrent: int = 1
) -> Callable[..., list[float | Problem]]:
    """The reward function of a verifier: ``verify(completion, row)`` for each row of the data.

    Args:
        verify: what it says of a right answer is 1.0. Where it raises ``TimeoutError``,
            ``MemoryError`` or ``ChildProcessError`` there is no verdict: the completion is not
            scored, whatever ``on_error`` says, because what a model wrote must not end a run.
        timeout: seconds for a batch, after which no further answer is looked at.
        concurrent: answers that are judged side by side.
    """

    def verifier(completions: list[str], **columns: list[Any]) -> list[float | Problem]:
        rows = [
            {name: items[i] for name, items in columns.items()} for i in range(len(completions))
        ]
        judged = partial(_judged, verify, time.monotonic() + timeout, timeout)
        if concurrent == 1:
            return list(map(judged, completions, rows))
        with ThreadPoolExecutor(concurrent) as threads:
            return list(threads.map(judged, completions, rows))

    return verifier


def from_mathematics(field: str, timeout: float = 60.0) -> Callable[..., list[float | Problem]]:
    """The reward function of ``verifier = "math"``: 1.0 where the answer is that of a column.

    Args:
        field: the column of the right answer, text or a number.
        timeout: as in ``from_verifier``.
    """

    def verify(completion: str, row: Mapping[str, Any]) -> float:
        right = row.get(field)
        judge = isolated.pool("polopt.isolated.mathematics:prepare")
        verdict = None if right is None else judge.ask(completion, str(right))
        if verdict is None:
            raise DataError(
                f'field {field!r}: {shown(right)} holds no answer that verifier = "math" can '
                "compare; text or a number in every row"
            )
        return float(verdict)

    return from_verifier(verify, timeout, isolated.CONCURRENT)


def _judged(
    verify: Verify, deadline: float, timeout: float, completion: str, row: Mapping[str, Any]
) -> float | Problem:
    """What a verifier says, or why there is no verdict."""
    if time.monotonic() > deadline:
        late = f"the batch took more than {timeout:g} s"
        return Problem(Outcome.TIMEOUT, late, stops=False)
    try:
        return verify(completion, row)
    except TimeoutError as error:
        return Problem(Outcome.TIMEOUT, str(error), stops=False)
    except MemoryError as error:
        return Problem(Outcome.MEMORY, str(error), stops=False)
    except ChildProcessError as error:
        return Problem(Outcome.ERROR, str(error), stops=False)


def _run(file: Path, source: bytes) -> ModuleType:
    """The file as a module.

    Raises:
        RewardError: it is no Python file, or cannot be run.
    """
    if file.suffix != ".py":
        raise RewardError(f"reward.file: {str(file)!r} is no Python file; its name ends in .py")
    try:
        with undisturbed(seed=0):
            return module_of(file.resolve(), source)
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward.file: {str(file)!r} cannot be run: {told(error)}") from error
