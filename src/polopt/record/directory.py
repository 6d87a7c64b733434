"""A run directory: created at once before torch loads, owned by one process, appended by lines."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from polopt.errors import RunDirectoryError
from polopt.places import is_run, nearest
from polopt.record.files import disk_errors, sync, write_json

LINES = ("metrics", "samples", "warnings", "prompts", "timeline", "alarms")


class RunDirectory:
    """An owned run directory; use it as a context manager.

    Raises:
        RunDirectoryError: another process owns it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._lock = FileLock(path / ".lock", timeout=0)
        self._files: dict[str, FileIO] = {}

    def __enter__(self) -> RunDirectory:
        owner = self.path / ".owner"
        try:
            self._lock.acquire()
        except Timeout as error:
            who = owner.read_text(encoding="utf-8").strip() if owner.exists() else "another process"
            raise RunDirectoryError(f"{self.path}: in use by {who}") from error
        with disk_errors(owner):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        for name in LINES:
            # Unbuffered: closing a file must not try again to write what a full disk refused.
            self._files[name] = (self.path / f"{name}.jsonl").open("ab", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        (self.path / ".owner").unlink(missing_ok=True)
        self._lock.release()

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run."""
        return json.loads((self.path / "config.json").read_text(encoding="utf-8"))

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add one line to ``name``.jsonl; readers of a running run see it at once."""
        left = memoryview(json.dumps(line, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        with disk_errors(self.path / f"{name}.jsonl"):
            while left:
                left = left[self._files[name].write(left) :]

    def offsets(self) -> dict[str, int]:
        """Bytes in each line file, synced to disk: no checkpoint is ahead of the recorded lines."""
        for name, file in self._files.items():
            with disk_errors(self.path / f"{name}.jsonl"):
                os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Drop the lines that were written after a checkpoint; all lines of a file without offset.

        Raises:
            RunDirectoryError: a file is shorter than it was at the checkpoint.
        """
        for name, file in self._files.items():
            offset = offsets.get(name, 0)
            if file.seek(0, os.SEEK_END) < offset:
                raise RunDirectoryError(
                    f"{self.path / name}.jsonl: has {file.tell():,} bytes, but the last checkpoint "
                    f"was made when it had {offset:,}; put the missing lines back"
                )
            file.truncate(offset)
            file.seek(0, os.SEEK_END)


class BesideDirectory(RunDirectory):
    """The run directory for a rank that writes nothing into it: another one owns it."""

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Nothing: the owner writes the same line."""

    def offsets(self) -> dict[str, int]:
        """None."""
        return {}

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Nothing."""


def create(path: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Path:
    """Make a run directory with its configuration, atomically: by renaming a temporary one.

    Raises:
        RunDirectoryError: it exists, or cannot be made.
    """
    if path.exists() or path.is_symlink():
        resumable = (path / "config.json").is_file()
        hint = f"continue it with: polopt resume {path}" if resumable else "name another one"
        raise RunDirectoryError(f"run.directory: {str(path)!r} exists; {hint}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same id
        temporary.mkdir()
        (temporary / "checkpoints").mkdir()
        write_json(temporary / "environment.json", environment)
        write_json(temporary / "config.json", config)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:  # a full disk, too
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error.__cause__ if isinstance(error, RunDirectoryError) else error
        reason = getattr(cause, "strerror", None) or cause
        raise RunDirectoryError(f"run.directory: {str(path)!r} cannot be made: {reason}") from error
    return path


def open_existing(path: Path, *, owner: bool = True) -> RunDirectory:
    """The run directory at ``path``, for the process that writes it or for one beside it.

    Raises:
        RunDirectoryError: there is none, with the reason.
    """
    if not path.is_dir():
        found = nearest(path, is_run)
        hint = "start one with: polopt train" if found is None else f"did you mean {found}?"
        raise RunDirectoryError(f"{path}: no such run directory; {hint}")
    if not (path / "config.json").is_file():
        raise RunDirectoryError(f"{path}: not a run directory, it has no config.json")
    return RunDirectory(path) if owner else BesideDirectory(path)


def begun(path: Path) -> bool:
    """Whether a run has recorded metrics."""
    return (path / "metrics.jsonl").is_file() and (path / "metrics.jsonl").stat().st_size > 0


def next_free(name: str, directory: Path = Path("runs"), ending: str = "") -> Path:
    """``runs/NAME-N`` with the first N, from 1 on, for which no such path exists."""
    paths = (directory / f"{name}-{number}{ending}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
