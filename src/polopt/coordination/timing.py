"""Wall-clock seconds, summed by name."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from polopt.types import Metrics


@contextmanager
def timed(seconds: Metrics, name: str) -> Generator[None]:
    """Add the seconds that the block takes to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
