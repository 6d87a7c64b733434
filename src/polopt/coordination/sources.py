"""Sources of batches for the learners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from polopt.coordination.ledger import End, Ledger
from polopt.coordination.rollouter import Rollouter
from polopt.rollout.engines import Weights
from polopt.rollout.groups import tokens_of
from polopt.types import Batch, Group, Metrics

B = TypeVar("B")


def resampled(filtered: Sequence[Group]) -> Metrics:
    """How many groups gave way to others, and the tokens that had been written for them."""
    greedy = [group.greedy for group in filtered if group.greedy is not None]
    samples = [sample for group in filtered for sample in group.samples]
    return {
        "resampled_groups": float(len(filtered)),
        "resampled_tokens": float(tokens_of([*samples, *greedy])),
    }


class RolloutSource(Protocol[B]):
    """A source of batches of bounded staleness."""

    def publish(self, version: int) -> None:
        """Serve new weights; returns when every engine does."""
        ...

    def next_batch(self) -> B:
        """The next batch; blocks until it is complete."""
        ...

    def ack(self, batch: B) -> None:
        """Free the slots of a batch after training on it and, at the end of a step, ``publish``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state for resuming."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        ...

    def stats(self) -> Metrics:
        """Metrics of the newest batch, its times included."""
        ...


class BoundedSource(RolloutSource[B], Protocol):
    """A source whose bounds on staleness can change while it runs."""

    def bound(self, staleness: int, window: int) -> None:
        """Set S and W from now on."""
        ...


class InlineSource:
    """Generate and train in turn, in one thread on one device."""

    def __init__(self, rollouter: Rollouter, ledger: Ledger, weights: Weights) -> None:
        self._rollouter, self._ledger, self._weights = rollouter, ledger, weights
        self._stats: Metrics = {}

    def publish(self, version: int) -> None:
        """Have the engine serve the weights as they are now."""
        self._rollouter.engine.publish(self._weights, version)
        self._ledger.published(version)

    def next_batch(self) -> Batch:
        """Generate and score one batch with the weights being served."""
        sampled, self._stats = self._rollouter.sampled, {}
        filtered, groups = list[Group](), self._fill()
        for _ in range(sampled.rounds):
            dull = [group for group in groups if not sampled.keep(group)]
            if not dull:
                break
            filtered += dull
            self._ledger.release((group.ticket for group in dull), End.FILTERED)
            groups = self._fill()
        self._rollouter.engine.rest()
        taken = self._ledger.take()
        assert taken is not None, f"an inline batch is complete: {self._ledger.stats()}"
        if sampled.rounds:
            self._stats |= resampled(filtered)
        return Batch(tuple(taken), self._ledger.version)

    def _fill(self) -> Sequence[Group]:
        """Generate and score a group for every free slot."""
        self._ledger.admit()
        attempts = dict[int, int]()
        while (ticket := self._ledger.claim(deadline=math.inf)) is not None:
            attempts[ticket.id] = ticket.attempt
        groups = self._rollouter.groups([*attempts], self._stats)
        for group in groups:
            self._ledger.deliver(group.ticket, attempts[group.ticket], group)
        return groups

    def ack(self, batch: Batch) -> None:
        """Free the batch's slots."""
        self._ledger.release((group.ticket for group in batch.groups), End.TRAINED)

    def state_dict(self) -> dict[str, Any]:
        """The state of the ledger."""
        return self._ledger.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state of the ledger."""
        self._ledger.load_state_dict(state)

    def stats(self) -> Metrics:
        """Seconds of generating and scoring the last batch; number of replaced groups."""
        return dict(self._stats)
