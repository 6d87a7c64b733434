"""Reward functions that a recipe names: from a local Python file, or the verifier of a task."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from polopt.errors import RewardError, did_you_mean
from polopt.places import no_file
from polopt.rewards.call import told, undisturbed


def from_file(path: str, function: str) -> Callable[..., Any]:
    """The callable named ``function`` of a local Python file; the file is run.

    Raises:
        RewardError: there is no such file, it cannot be run, or it defines no such callable.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RewardError(f"reward.file: {path!r} {no_file(file)}")
    module = _run(file)
    found = getattr(module, function, None)
    if callable(found):
        return found
    if found is not None:
        kind = type(found).__name__
        raise RewardError(f"reward.function: {function!r} in {path} is of type {kind}; a callable")
    own = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    known = [n for n in own if getattr(getattr(module, n), "__module__", "") == module.__name__]
    hint = did_you_mean(function, known, f"it defines: {', '.join(known) or 'nothing'}")
    raise RewardError(f"reward.function: {function!r} is not defined in {path}; {hint}")


def from_verifier(verify: Callable[[str, Mapping[str, Any]], float]) -> Callable[..., list[float]]:
    """The reward function of a task: ``verify(completion, row)`` for each row of the data."""

    def task(completions: list[str], **columns: list[Any]) -> list[float]:
        rows = (
            {name: items[i] for name, items in columns.items()} for i in range(len(completions))
        )
        return [verify(text, row) for text, row in zip(completions, rows, strict=True)]

    return task


def _run(file: Path) -> ModuleType:
    """Import the file as a module in ``sys.modules``, where dataclasses look up their own.

    Raises:
        RewardError: it is no Python file, or cannot be run.
    """
    name = f"polopt_reward_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RewardError(f"reward.file: {str(file)!r} is no Python file; its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with undisturbed(seed=0):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RewardError(f"reward.file: {str(file)!r} cannot be run: {told(error)}") from error
    return module
