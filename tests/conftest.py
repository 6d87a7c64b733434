"""What every test may use: one thread of torch, and one undisturbed run to compare with."""

from __future__ import annotations

import os
import sys
import time

# Before torch is imported, here and in children; threads that wait leave the core to others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Whatever a test does to the number of threads ends with it."""
    torch = sys.modules.get("torch")  # tests of what works without it do not wait for it
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> None:
    """For small models: a second thread makes them slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke recipe, run by the command without any disturbance."""
    from runs import SMOKE, command

    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    begun = time.monotonic()
    code, _, errors = command("train", SMOKE, "--run.directory", directory)
    assert code == 0, errors
    (directory / "seconds").write_text(str(time.monotonic() - begun))
    return directory
