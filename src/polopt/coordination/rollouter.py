"""Turns places of the prompt stream into scored groups, whoever says when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from polopt.coordination.timing import timed
from polopt.rollout.engines import Engine, Request, answered
from polopt.rollout.timeline import REWARDS, Timeline
from polopt.types import Group, Metrics, Prompt, Sampling


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


@dataclass(frozen=True)
class Rollouter:
    """Generates on an engine and scores; a group depends on its place in the stream alone."""

    engine: Engine
    sampled: Sampled
    timeline: Timeline = field(default_factory=Timeline)
    who: str | None = None  # does all of it; None: an engine that says itself when it generates

    def groups(self, places: Sequence[int], stats: Metrics) -> list[Group]:
        """A scored group for every place, in their order; seconds are added to ``stats``."""
        requests = [self._request(place) for place in places]
        with self._during(self.who, "generate", len(places)):
            groups = self._generated(requests, stats)
        with timed(stats, "time/reward"), self._during(self.who or REWARDS, "score", len(places)):
            return _apart(self.sampled.score(_together(groups)), groups)

    def _generated(self, requests: Sequence[Request], stats: Metrics) -> list[Group]:
        with timed(stats, "time/rollout"):
            groups = answered(self.engine, requests)
        if self.sampled.greedy:
            with timed(stats, "time/greedy"):
                groups = _beside(groups, answered(self.engine, list(map(_most_likely, requests))))
        return groups

    def _during(self, who: str | None, what: str, groups: int) -> AbstractContextManager[object]:
        if who is None:
            return nullcontext()
        return self.timeline.during(who, what, self.engine.version, groups)

    def _request(self, place: int) -> Request:
        sampled = self.sampled
        prompt = sampled.prompt(place)
        return Request(place, prompt, sampled.group_size, sampled.sampling, sampled.seed)


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
