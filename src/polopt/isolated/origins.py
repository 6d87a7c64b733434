"""Where a process finds a function that a user wrote: in an importable module, or in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Origin:
    """A function by its name, so that another process has the same one and no copy of it."""

    name: str  # in its module, dotted
    module: str = ""  # to import; empty: that of the file
    path: str = ""  # of the file, absolute
    source: bytes = b""  # of the file, as it was read: an edit does not reach a run that has begun


def origin_of(function: Callable[..., Any]) -> Origin | None:
    """Where another process finds a function; None where it would get a copy, or nothing.

    A lambda, a closure, a method and an object that can be called may hold state that the caller
    looks at, and what is defined in ``__main__`` is not there to be imported.
    """
    if not isinstance(function, FunctionType) or function.__module__ == "__main__":
        return None
    try:
        found = attrgetter(function.__qualname__)(sys.modules[function.__module__])
    except (AttributeError, KeyError):
        return None
    same = found is function and _importable(function.__module__)
    return Origin(function.__qualname__, function.__module__) if same else None


def _importable(module: str) -> bool:
    """Whether a new process finds the package; a module made by hand is in this one alone."""
    package = module.partition(".")[0]
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return any(finder.find_spec(package, None) is not None for finder in finders)


def found(origin: Origin) -> Callable[..., Any]:
    """The function; its module is imported, or its file run, where they were not yet."""
    if origin.module:
        module = import_module(origin.module)
    else:
        module = module_of(Path(origin.path), origin.source)
    return attrgetter(origin.name)(module)


@cache
def module_of(path: Path, source: bytes) -> ModuleType:
    """Run a file as a module in ``sys.modules``, where dataclasses look up their own."""
    name = f"polopt_reward_file_{path.stem}"
    loader = _AsRead(path, source)
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None, "it has a loader"
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _AsRead(SourceLoader):
    """Loads a file as it was when it was read."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str) -> bytes:
        return self._source
