"""The interface of engines that generate responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polopt.types import Group, Prompt, Sampling

Hear = Callable[[list[int]], None]
"""Called with the tokens of a response so far, after each of them."""


@dataclass(frozen=True)
class Request:
    """``count`` responses to one prompt. (run seed, ticket, sample index) decide the draws."""

    ticket: int
    prompt: Prompt
    count: int
    sampling: Sampling


class Engine(Protocol):
    """Generates groups of responses; many prompts decode together.

    Each token carries the log-prob of the distribution it was drawn from and the version of the
    policy that drew it, both from the engine itself.
    """

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests."""
        ...

    def poll(self) -> list[Group]:
        """Groups that are done, [] when nothing is queued; blocks while requests are."""
        ...

    def update(self, version: int) -> None:
        """Serve the weights of this version from now on."""
        ...

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        ...


def answered(engine: Engine, requests: Sequence[Request]) -> list[Group]:
    """All requested groups, in the order of their tickets."""
    engine.submit(requests)
    groups = list[Group]()
    while finished := engine.poll():
        groups.extend(finished)
    return sorted(groups, key=lambda group: group.ticket)
