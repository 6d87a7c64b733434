"""Following a run from outside: the lines that were added, and whether its process lives."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

OWNER = re.compile(r"process (\d+) on (.+)")
CLOCKS = 2.0  # seconds by which the start of a process and the time of a file may differ


class Tail:
    """The lines of a line file so far; each look reads what was added alone.

    A run that is resumed cuts its files: where one has become shorter it is read anew. A last line
    without its end is still being written, and waits; one that is no JSON object is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.lines = list[dict[str, Any]]()

    def look(self) -> list[dict[str, Any]]:
        """All lines that there are now."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._read:
                    self._read, self.lines = 0, []
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return self.lines
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        self.lines += [line for text in whole.splitlines() if (line := _parsed(text)) is not None]
        return self.lines


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


@dataclass(frozen=True)
class Owner:
    """The process that a run directory belongs to."""

    process: int
    host: str
    lives: bool | None  # None: it is on another machine, and nobody can say from here


def owner(run: Path) -> Owner | None:
    """Who owns a run directory, by the file that the process leaves there; None: nobody.

    A process that was killed leaves it behind; another one may have its number since, and is
    younger than the file.
    """
    path = run / ".owner"
    try:
        found = OWNER.fullmatch(path.read_text(encoding="utf-8").strip())
        written = path.stat().st_mtime
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    process, host = int(found[1]), found[2]
    return Owner(process, host, _lives(process, written) if host == socket.gethostname() else None)


def _lives(process: int, written: float) -> bool:
    try:
        one = psutil.Process(process)
        return one.create_time() <= written + CLOCKS and one.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
