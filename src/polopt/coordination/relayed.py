"""Batches of a source that one of several ranks has, on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from polopt.coordination.sources import BoundedSource
from polopt.ranks import Ranks
from polopt.rollout.engines import Weights
from polopt.rollout.packed import from_bytes, to_bytes
from polopt.types import Batch, Metrics, Prompt


class RelayedSource:
    """The first rank asks the source, and sends what it says to the others.

    Args:
        ranks: all of which make one, and call the same methods in the same order.
        make: the source of given weights; called on the first rank alone.
        weights: of the policy, one at a time; sharded ones are gathered by all ranks.
        prompt: place in the stream to prompt, the same on all ranks: prompts are not sent.
    """

    def __init__(
        self,
        ranks: Ranks,
        make: Callable[[Weights], BoundedSource[Batch]],
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
        prompt: Callable[[int], Prompt],
    ) -> None:
        self._ranks, self._weights, self._prompt = ranks, weights, prompt
        self._published = dict[str, Tensor]()
        self._source = make(lambda: self._published) if ranks.first else None

    def publish(self, version: int) -> None:
        """Gather the weights, and have the engines of the source serve them."""
        for name, weight in self._weights():
            if self._source is not None:
                self._published[name] = weight
        if self._source is not None:
            self._source.publish(version)
        self._published.clear()

    def next_batch(self) -> Batch:
        """The next batch of the source, on every rank."""
        batch = None if self._source is None else self._source.next_batch()
        data = self._ranks.heard(None if batch is None else _bytes(batch))
        version = self._ranks.decided(batch and batch.taken_at)
        if batch is not None:
            return batch
        return Batch(tuple(from_bytes(data.numpy().tobytes(), self._prompt)), version)

    def ack(self, batch: Batch) -> None:
        """Free the batch's slots."""
        if self._source is not None:
            self._source.ack(batch)

    def bound(self, staleness: int, window: int) -> None:
        """Set S and W from now on."""
        if self._source is not None:
            self._source.bound(staleness, window)

    def state_dict(self) -> dict[str, Any]:
        """The state of the source; the first rank has it, and writes it."""
        return {} if self._source is None else self._source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the source."""
        if self._source is not None:
            self._source.load_state_dict(state)

    def stats(self) -> Metrics:
        """The metrics of the source, on every rank: what reacts to them does so on all."""
        return self._ranks.decided(None if self._source is None else self._source.stats())


def _bytes(batch: Batch) -> Tensor:
    return torch.frombuffer(bytearray(to_bytes(batch.groups)), dtype=torch.uint8)
