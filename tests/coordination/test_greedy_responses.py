"""Greedy responses beside the sampled ones: asked for, scored like them, and kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from polopt.coordination.ledger import Ledger
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.rollout.engines import Request
from polopt.rollout.groups import has_contrast, rollout_metrics
from polopt.types import Batch, Group, Prompt, Sample, Sampling
from queued_engine import Queued

SAMPLING = Sampling(0.7, max_new_tokens=9, min_new_tokens=2, stop=("!",))
GREEDY = replace(SAMPLING, temperature=0.0)


class Engine(Queued):
    """Finishes one group a poll, the last first; the first token says how it was sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[Request]()

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        self.asked += requests

    def poll(self) -> list[Group]:
        if not self.queue:
            return []
        request = self.queue.pop()
        tokens = np.array([request.ticket, int(request.sampling.temperature == 0)])
        sample = Sample(tokens, tokens > 5, np.zeros(2, dtype=np.float32), 1)
        return [Group(request.ticket, request.prompt, (sample,) * request.count)]


class Score:
    """Greedy responses earn ten times their ticket and 1 more, the others the ticket."""

    def __init__(self) -> None:
        self.calls = list[list[int]]()

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        self.calls.append([len(group.samples) for group in groups])
        assert all(group.greedy is None for group in groups)
        return [replace(g, samples=tuple(map(self._scored, g.samples))) for g in groups]

    def _scored(self, sample: Sample) -> Sample:
        ticket, greedy = sample.tokens.tolist()
        return replace(sample, reward=float(10 * ticket + 1 if greedy else ticket))


def source(*, greedy: bool, rounds: int = 0) -> tuple[InlineSource, Engine, Score]:
    engine, score = Engine(), Score()
    asked = Sampled(
        lambda place: Prompt(place, "", (1,)), 2, SAMPLING, 0, score, has_contrast, rounds, greedy
    )
    return InlineSource(Rollouter(engine, asked), Ledger(3), dict), engine, score


def test_every_prompt_gets_one_with_the_same_limits() -> None:
    one, engine, score = source(greedy=True)
    batch = one.next_batch()
    wanted = [(t, 2, SAMPLING) for t in range(3)] + [(t, 1, GREEDY) for t in range(3)]
    assert [(r.ticket, r.count, r.sampling) for r in engine.asked] == wanted
    assert score.calls == [[3, 3, 3]]  # one call for all: what a reward function sees is one batch
    for place, group in enumerate(batch.groups):
        assert group.ticket == place
        assert [s.reward for s in group.samples] == [place, place]
        assert group.greedy is not None
        assert (group.greedy.reward, group.greedy.tokens[1]) == (10 * place + 1, 1)


def test_its_tokens_are_counted_apart() -> None:
    """Three prompts with two responses of two tokens each, and a greedy one of two."""
    batch = source(greedy=True)[0].next_batch()
    found = rollout_metrics(Batch(tuple(map(written, batch.groups)), batch.taken_at))
    assert (found["tokens"], found["greedy_tokens"]) == (12, 6)
    other = source(greedy=False)[0].next_batch()
    found = rollout_metrics(Batch(tuple(map(written, other.groups)), other.taken_at))
    assert found["tokens"] == 12 and "greedy_tokens" not in found


def written(group: Group) -> Group:
    """The same as if the policy had written every token."""

    def own(sample: Sample) -> Sample:
        return replace(sample, mask=np.ones(2, dtype=bool))

    greedy = None if group.greedy is None else own(group.greedy)
    return replace(group, samples=tuple(map(own, group.samples)), greedy=greedy)


def test_its_time_is_told() -> None:
    one, _, _ = source(greedy=True)
    one.next_batch()
    assert set(one.stats()) == {"time/rollout", "time/greedy", "time/reward"}
    assert min(one.stats().values()) > 0


def test_nobody_else_pays_for_it() -> None:
    one, engine, score = source(greedy=False)
    batch = one.next_batch()
    assert [r.sampling for r in engine.asked] == [SAMPLING] * 3
    assert score.calls == [[2, 2, 2]]
    assert all(group.greedy is None for group in batch.groups)
    assert "time/greedy" not in one.stats()


def test_a_prompt_whose_greedy_response_earned_otherwise_does_not_give_way() -> None:
    """The two samples of a prompt always earn the same; only against the greedy one is there
    anything to learn, and there is for every prompt."""
    one, _, _ = source(greedy=True, rounds=3)
    assert [group.ticket for group in one.next_batch().groups] == [0, 1, 2]
    assert one.stats()["resampled_groups"] == 0
    other, _, _ = source(greedy=False, rounds=3)
    assert [group.ticket for group in other.next_batch().groups] == [9, 10, 11]
