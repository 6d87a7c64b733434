"""A file layer that dies at its n-th call, and the proof that it does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polopt.record import RunDirectory, create, open_existing
from runs import Crash


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch, fatal: int) -> Iterator[None]:
    """Calls that change the disk count from 0; call ``fatal`` and every later one raise."""
    calls = 0

    def dying(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > fatal:
                raise Crash
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("fsync", "rename", "replace", "symlink", "mkdir", "unlink", "rmdir"):
            patched.setattr(os, name, dying(getattr(os, name)))
        patched.setattr(RunDirectory, "append", dying(RunDirectory.append))
        yield


def test_it_dies_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Crash), faulty(monkeypatch, 3):
        create(tmp_path / "run", {}, {})
    assert not (tmp_path / "run").exists()
    with faulty(monkeypatch, 1000):
        create(tmp_path / "run", {}, {})
    with pytest.raises(Crash), open_existing(tmp_path / "run") as run, faulty(monkeypatch, 0):
        run.append("metrics", {})
