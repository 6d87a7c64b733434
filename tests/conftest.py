"""What every test may use: one thread of torch, and models that were never trained."""

from __future__ import annotations

import os

# Before torch is imported, here and in children; threads that wait leave the core to others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Whatever a test does to the number of threads ends with it."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
