"""Generation and rewards that are divided among ranks: each group is made once, and all have it.

Draws go by seed, ticket and sample, so the groups are those that one rank would make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from polopt.ranks import Ranks
from polopt.rollout.engines import Engine, Request, Weights
from polopt.rollout.packed import from_bytes, to_bytes
from polopt.types import Batch, Experience, Group, Prompt

Judge = Callable[[Sequence[Group]], list[Group]]


class DividedEngine:
    """An engine whose requests are answered by the engines of several ranks.

    All ranks ask the same; a rank generates the tickets ``r, r + n, …``, and gets all groups.

    Args:
        engine: of this rank; None where it generates nothing.
        ranks: that ask.
        generating: how many of them generate, from the first one on.
    """

    def __init__(self, engine: Engine | None, ranks: Ranks, generating: int | None = None) -> None:
        self._engine, self._ranks = engine, ranks
        self._generating = generating or ranks.size
        self._prompts = dict[int, Prompt]()
        self._version = 0

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; those of other ranks are theirs."""
        self._prompts |= {request.ticket: request.prompt for request in requests}
        rank = self._ranks.rank
        own = [request for request in requests if request.ticket % self._generating == rank]
        if self._engine is not None and own:
            self._engine.submit(own)

    def poll(self) -> list[Group]:
        """All groups that were asked for, when every rank has its own."""
        if not self._prompts:
            return []
        prompts, self._prompts = self._prompts, {}
        rank, own = self._ranks.rank, list[Group]()
        count = sum(ticket % self._generating == rank for ticket in prompts)
        while self._engine is not None and len(own) < count:
            own.extend(self._engine.poll())
        return shared(self._ranks, own, prompts.__getitem__)

    def publish(self, weights: Weights, version: int) -> None:
        """Serve these weights from now on, on every rank."""
        if self._engine is not None:
            self._engine.publish(weights, version)
        self._version = version

    def rest(self) -> None:
        """Nothing more is asked for before the next :meth:`publish`."""
        if self._engine is not None:
            self._engine.rest()

    def close(self) -> None:
        """End the engine of this rank."""
        if self._engine is not None:
            self._engine.close()


def shared(ranks: Ranks, own: Sequence[Group], prompt: Callable[[int], Prompt]) -> list[Group]:
    """The groups of all ranks, by rank; this one's are not copied."""
    found = ranks.gathered(torch.frombuffer(bytearray(to_bytes(own)), dtype=torch.uint8))
    return [
        group
        for rank, data in enumerate(found)
        for group in (own if rank == ranks.rank else from_bytes(data.numpy().tobytes(), prompt))
    ]


def divided(judge: Judge, ranks: Ranks, judging: int | None = None) -> Judge:
    """The same judge, of which each rank asks every n-th group, so that each is scored once.

    Args:
        judge: of this rank.
        ranks: that hold the same groups.
        judging: how many of them score, from the first one on.
    """
    if ranks.alone:
        return judge
    count = judging or ranks.size

    def judged(groups: Sequence[Group]) -> list[Group]:
        own = groups[ranks.rank :: count] if ranks.rank < count else []
        prompts = {group.ticket: group.prompt for group in groups}
        scored = shared(ranks, judge(own) if own else [], prompts.__getitem__)
        by_ticket = {group.ticket: group for group in scored}
        return [by_ticket[group.ticket] for group in groups]

    return judged


def agreeing(ranks: Ranks, prepare: Callable[[Any], Experience]) -> Callable[[Any], Experience]:
    """The same function of a batch, which first makes sure that all ranks have the same one.

    Raises:
        RankError: they do not.
    """
    if ranks.alone:
        return prepare

    def prepared(batch: Batch) -> Experience:
        ranks.agree("the batch", _content(batch))
        return prepare(batch)

    return prepared


def _content(batch: Batch) -> Iterable[bytes]:
    for group in batch.groups:
        yield repr(group.prompt.tokens).encode()
    yield to_bytes(batch.groups)
