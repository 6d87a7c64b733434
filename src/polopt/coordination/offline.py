"""Batches of given data: nothing is generated, so nothing grows stale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polopt.types import Batch, Group, Metrics


class OfflineSource:
    """Consecutive groups of an endless stream that is a pure function of the place in it."""

    def __init__(self, group: Callable[[int], Group], batch_size: int) -> None:
        self._group, self._batch_size = group, batch_size
        self._position = 0
        self._version = 0

    def publish(self, version: int) -> None:
        """Nothing to do: no engine samples."""
        self._version = version

    def next_batch(self) -> Batch:
        """The next ``batch_size`` places of the stream."""
        places = range(self._position, self._position + self._batch_size)
        return Batch(tuple(self._group(place) for place in places), self._version)

    def ack(self, batch: Batch) -> None:
        """Advance the place in the stream."""
        self._position += len(batch.groups)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the place in the stream."""
        self._position = state["position"]

    def stats(self) -> Metrics:
        """No metrics."""
        return {}
