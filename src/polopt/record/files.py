"""Atomic writing: after a kill or on a full disk there is either the old file or the new one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from polopt.errors import RunDirectoryError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sync(path: Path) -> None:
    """Sync a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Replace ``path`` by ``value`` as JSON, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            temporary.write_text(
                json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


_kept: ContextVar[bool] = ContextVar("kept", default=True)


@contextmanager
def discarded() -> Generator[None]:
    """Inside, :func:`keeps` says no: what is made for a file is made for another process."""
    token = _kept.set(False)
    try:
        yield
    finally:
        _kept.reset(token)


def keeps() -> bool:
    """Whether weights are written; another rank may do that."""
    return _kept.get()


_hashes: ContextVar[dict[Path, str] | None] = ContextVar("hashes", default=None)


@contextmanager
def hashes() -> Generator[dict[Path, str]]:
    """Inside, the SHA-256 of what is written into each file of :func:`hashed`, by its path."""
    found = dict[Path, str]()
    token = _hashes.set(found)
    try:
        yield found
    finally:
        _hashes.reset(token)


@contextmanager
def hashed(path: Path) -> Generator[Callable[[Any], None]]:
    """A new file as a function that adds bytes to it; they are hashed as they are written."""
    digest = hashlib.sha256()

    def put(part: Any) -> None:  # noqa: ANN401 - bytes, or an array of them
        digest.update(part)
        file.write(part)

    with path.open("wb") as file:
        yield put
    found = _hashes.get()
    if found is not None:
        found[path] = digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn the errors of a full disk into a RunDirectoryError that says how many bytes are free."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _number(error) not in FULL:
            raise
        existing = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        raise RunDirectoryError(
            f"{path}: cannot be written, the disk or the file limit is full ({free:,} bytes free); "
            "make room and resume the run: the last checkpoint is whole"
        ) from error


def _number(error: OSError | SafetensorError) -> int | None:
    """The errno of an error; safetensors has it in its message alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
