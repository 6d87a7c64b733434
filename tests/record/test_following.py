"""Following a run from outside: what was added, and whether its process lives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from polopt.record.following import Owner, Tail, owner


def test_only_what_was_added_is_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.look() == []  # it is not there yet
    file.write_bytes(b'{"step": 1}\n{"st')
    assert tail.look() == [{"step": 1}]
    with file.open("ab") as end:
        end.write(b'ep": 2}\n[3]\nnot JSON\n')
    assert tail.look() == [{"step": 1}, {"step": 2}]


def test_a_file_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    """A resume drops the lines after the checkpoint, and writes others."""
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert len(tail.look()) == 3
    file.write_text('{"step": 1}\n{"step": 9}\n')
    assert tail.look() == [{"step": 1}, {"step": 9}]


def owned(run: Path, process: int, host: str) -> Owner | None:
    (run / ".owner").write_text(f"process {process} on {host}\n")
    return owner(run)


def test_whether_the_owner_lives(tmp_path: Path) -> None:
    here = socket.gethostname()
    assert owner(tmp_path) is None
    assert owned(tmp_path, os.getpid(), here) == Owner(os.getpid(), here, True)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert owned(tmp_path, gone.pid, here) == Owner(gone.pid, here, False)
    assert owned(tmp_path, 7, "elsewhere") == Owner(7, "elsewhere", None)
    (tmp_path / ".owner").write_text("nonsense")
    assert owner(tmp_path) is None


def test_a_process_that_began_after_the_file_is_another_one(tmp_path: Path) -> None:
    owned(tmp_path, os.getpid(), socket.gethostname())
    os.utime(tmp_path / ".owner", (1_000_000, 1_000_000))
    found = owner(tmp_path)
    assert found is not None and found.lives is False
