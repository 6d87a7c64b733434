"""Sources of batches for the learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from polopt.coordination.ledger import End, Ledger
from polopt.coordination.timing import timed
from polopt.rollout.engines import Engine, Request, Weights, answered
from polopt.types import Batch, Group, Metrics, Prompt, Sampling

B = TypeVar("B")


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


@dataclass(frozen=True)
class Sampled:
    """How the groups of each prompt are sampled, scored and filtered."""

    prompt: Callable[[int], Prompt]  # place in the stream -> prompt
    group_size: int
    sampling: Sampling
    seed: int  # of the draws
    score: Callable[[Sequence[Group]], list[Group]]  # rewards filled in
    keep: Callable[[Group], bool] = lambda _: True  # others are replaced by new prompts
    rounds: int = 0  # of new prompts; the last round is kept as it is
    greedy: bool = False  # the most likely response to each prompt as well


class InlineSource:
    """Generate and train in turn, in one thread on one device."""

    def __init__(self, engine: Engine, ledger: Ledger, sampled: Sampled, weights: Weights) -> None:
        self._engine, self._ledger, self._sampled = engine, ledger, sampled
        self._weights = weights
        self._stats: Metrics = {}

    def publish(self, version: int) -> None:
        """Have the engine serve the weights as they are now."""
        self._engine.publish(self._weights, version)
        self._ledger.published(version)

    def next_batch(self) -> Batch:
        """Generate and score one batch with the weights being served."""
        self._stats = {}
        filtered, groups = 0, self._fill()
        for _ in range(self._sampled.rounds):
            dull = [group.ticket for group in groups if not self._sampled.keep(group)]
            if not dull:
                break
            filtered += len(dull)
            self._ledger.release(dull, End.FILTERED)
            groups = self._fill()
        self._engine.rest()
        taken = self._ledger.take()
        assert taken is not None, f"an inline batch is complete: {self._ledger.stats()}"
        if self._sampled.rounds:
            self._stats["resampled_groups"] = float(filtered)
        return Batch(tuple(taken), self._ledger.version)

    def _fill(self) -> list[Group]:
        """Generate and score a group for every free slot."""
        self._ledger.admit()
        attempts = dict[int, int]()
        requests = list[Request]()
        with timed(self._stats, "time/rollout"):
            while (ticket := self._ledger.claim(deadline=math.inf)) is not None:
                attempts[ticket.id] = ticket.attempt
                requests.append(self._request(ticket.id))
            groups = answered(self._engine, requests)
        if self._sampled.greedy:
            with timed(self._stats, "time/greedy"):
                groups = _beside(groups, answered(self._engine, list(map(_most_likely, requests))))
        with timed(self._stats, "time/reward"):
            scored = _apart(self._sampled.score(_together(groups)), groups)
        for group in scored:
            self._ledger.deliver(group.ticket, attempts[group.ticket], group)
        return scored

    def _request(self, ticket: int) -> Request:
        sampled = self._sampled
        prompt = sampled.prompt(ticket)
        return Request(ticket, prompt, sampled.group_size, sampled.sampling, sampled.seed)

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


def _most_likely(request: Request) -> Request:
    """One response, the most likely token at every step."""
    return replace(request, count=1, sampling=replace(request.sampling, temperature=0.0))


def _beside(groups: Sequence[Group], greedy: Sequence[Group]) -> list[Group]:
    """The groups with the greedy response to the prompt of each."""
    responses = {group.ticket: group.samples[0] for group in greedy}
    return [replace(group, greedy=responses[group.ticket]) for group in groups]


def _together(groups: Sequence[Group]) -> list[Group]:
    """Greedy responses appended to the samples, to be scored with them."""
    return [
        group
        if group.greedy is None
        else replace(group, samples=(*group.samples, group.greedy), greedy=None)
        for group in groups
    ]


def _apart(scored: Sequence[Group], groups: Sequence[Group]) -> list[Group]:
    """The inverse of :func:`_together` on the scored groups."""
    return [
        one
        if group.greedy is None
        else replace(one, samples=one.samples[:-1], greedy=one.samples[-1])
        for one, group in zip(scored, groups, strict=True)
    ]
