"""The interface of engines that generate responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from polopt.types import Group, Prompt, Sampling

Hear = Callable[[list[int]], None]
"""Called with the tokens of a response so far, after each of them."""

Weights = Callable[[], Mapping[str, torch.Tensor]]
"""The weights of a policy by the names in its files; called by engines that do not share them."""


@dataclass(frozen=True)
class Request:
    """``count`` responses to one prompt. (seed, ticket, sample index, position) decide draws."""

    ticket: int
    prompt: Prompt
    count: int
    sampling: Sampling
    seed: int  # of the run and of what is asked for: training and evaluation have their own
    position: int = 0  # of the first token: a later turn does not repeat the draws of the first


class Engine(Protocol):
    """Generates groups of responses; many prompts decode together.

    Each token carries the log-prob of the distribution it was drawn from and the version of the
    policy that drew it, both from the engine itself.
    """

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests."""
        ...

    def poll(self) -> list[Group]:
        """Go on for a while; the groups that got done, [] where none did."""
        ...

    def publish(self, weights: Weights, version: int) -> None:
        """Serve these weights from now on; returns when the engine does."""
        ...

    def rest(self) -> None:
        """Nothing more is asked for before the next :meth:`publish`: memory may be freed."""
        ...

    def close(self) -> None:
        """End what belongs to the engine; a closed engine may be closed again."""
        ...

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        ...


@dataclass(frozen=True)
class Place:
    """What an engine with weights of its own runs on."""

    kind: str  # of device, such as "cuda"
    count: int  # of them, which it is divided over
    gpu: str | None = None  # for CUDA_VISIBLE_DEVICES, of one that its model is not on
    shared: bool = False  # the GPU is that of a trainer, whose turn alternates with the engine's
    room: int | None = None  # bytes that are the engine's in its turn; None: nobody planned

    @property
    def is_of_model(self) -> bool:
        """Whether it is the one GPU that its model is on, whose memory both can read."""
        return self.kind == "cuda" and self.count == 1 and self.gpu is None


@dataclass(frozen=True)
class Arrival:
    """What an engine serves, in its own words; plain data, also from another process."""

    version: int
    checksums: Mapping[str, int] | None  # of each tensor; None: compared when it was published
    groups: Sequence[Group]  # the responses to a probe, decoded with what it serves


class Arriving(Engine, Protocol):
    """An engine with weights of its own, which may be others than those that train."""

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        """Say what is served, between two turns; what is being generated stays as it is."""
        ...


def answered(engine: Engine, requests: Sequence[Request]) -> list[Group]:
    """All requested groups, in the order of their tickets."""
    engine.submit(requests)
    groups = list[Group]()
    while len(groups) < len(requests):
        groups.extend(engine.poll())
    return sorted(groups, key=lambda group: group.ticket)
