"""What every test may use: one thread of torch, and models that were never trained."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in children

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Whatever a test does to the number of threads ends with it."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
