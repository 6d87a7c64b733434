"""Where the learners' batches come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from polopt.coordination.ledger import End, Ledger
from polopt.rollout.engines import Engine, Request
from polopt.types import Batch, Group, Metrics, Prompt, Sampling


class RolloutSource(Protocol):
    """Batches of groups, at most as stale as agreed."""

    def publish(self, version: int) -> None:
        """New weights: return when every engine serves them."""
        ...

    def next_batch(self) -> Batch:
        """The next batch; blocks until it is there."""
        ...

    def ack(self, batch: Batch) -> None:
        """The batch is trained and the new weights are served: its slots are free."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        ...

    def stats(self) -> Metrics:
        """Metrics of the batch that was handed out last, its times included."""
        ...


@dataclass(frozen=True)
class Sampled:
    """What is asked of the engine for each prompt."""

    prompt: Callable[[int], Prompt]  # place in the stream -> prompt
    group_size: int
    sampling: Sampling
    score: Callable[[Sequence[Group]], list[Group]]  # rewards filled in


class InlineSource:
    """Mode 1: generate, then train, in one thread on one device."""

    def __init__(self, engine: Engine, ledger: Ledger, sampled: Sampled) -> None:
        self._engine, self._ledger, self._sampled = engine, ledger, sampled
        self._seconds: Metrics = {}

    def publish(self, version: int) -> None:
        """The engine shares the weights; it learns their version."""
        self._engine.update(version)
        self._ledger.published(version)

    def next_batch(self) -> Batch:
        """Generate and score one batch with the weights being served."""
        start = time.perf_counter()
        self._ledger.admit()
        attempts = dict[int, int]()
        requests = list[Request]()
        while (ticket := self._ledger.claim(deadline=math.inf)) is not None:
            attempts[ticket.id] = ticket.attempt
            prompt = self._sampled.prompt(ticket.id)
            requests.append(
                Request(ticket.id, prompt, self._sampled.group_size, self._sampled.sampling)
            )
        self._engine.submit(requests)
        groups = list[Group]()
        while finished := self._engine.poll():
            groups.extend(finished)
        generated = time.perf_counter()
        for group in self._sampled.score(groups):
            self._ledger.deliver(group.ticket, attempts[group.ticket], group)
        taken = self._ledger.take()
        assert taken is not None, f"an inline batch is complete: {self._ledger.stats()}"
        self._seconds = {
            "time/rollout": generated - start,
            "time/reward": time.perf_counter() - generated,
        }
        return Batch(tuple(taken), self._ledger.version)

    def ack(self, batch: Batch) -> None:
        """Free the batch's slots."""
        self._ledger.release((group.ticket for group in batch.groups), End.TRAINED)

    def state_dict(self) -> dict[str, Any]:
        """The ledger's."""
        return self._ledger.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The ledger's."""
        self._ledger.load_state_dict(state)

    def stats(self) -> Metrics:
        """Seconds of generating and of scoring the last batch."""
        return dict(self._seconds)
