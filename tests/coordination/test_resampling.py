"""Batches from an engine in the same thread: which prompts they hold, and what gives way."""

from collections.abc import Sequence

import numpy as np
import pytest

from polopt.coordination.ledger import End, Ledger
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.rollout.engines import Request
from polopt.rollout.groups import has_contrast
from polopt.types import Batch, Group, Prompt, Sample, Sampling
from queued_engine import Queued

PROMPTS = 3
NAN = float("nan")


def sample(reward: float) -> Sample:
    empty = np.zeros(1, dtype=np.int64)
    return Sample(empty, empty == 0, empty.astype(np.float32), 1, reward=reward)


class Fake(Queued):
    """Answers at once; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[int]()

    def submit(self, requests: Sequence[Request]) -> None:
        self.asked += [request.ticket for request in requests]
        super().submit(requests)

    def poll(self) -> list[Group]:
        done, self.queue = self.queue, []
        return [Group(r.ticket, r.prompt, tuple(sample(NAN) for _ in range(2))) for r in done]


def source(dull: set[int], rounds: int) -> tuple[InlineSource, Fake, Ledger]:
    """The responses to the prompts ``dull`` all earn 1; those to others 0 and 1."""

    def score(groups: Sequence[Group]) -> list[Group]:
        pairs = [(g, (1.0, 1.0) if g.ticket in dull else (0.0, 1.0)) for g in groups]
        return [Group(g.ticket, g.prompt, tuple(map(sample, rewards))) for g, rewards in pairs]

    engine, ledger = Fake(), Ledger(PROMPTS)
    asked = Sampled(lambda i: Prompt(i, "", ()), 2, Sampling(), 0, score, has_contrast, rounds)
    return InlineSource(Rollouter(engine, asked), ledger, dict), engine, ledger


def tickets(batch: Batch) -> list[int]:
    return [group.ticket for group in batch.groups]


def test_without_rounds_every_prompt_is_trained_on() -> None:
    one, engine, _ = source({0, 1, 2}, rounds=0)
    assert tickets(one.next_batch()) == [0, 1, 2] == engine.asked
    assert "resampled_groups" not in one.stats()


def test_groups_without_contrast_give_way_to_the_next_prompts() -> None:
    one, engine, ledger = source({0, 2, 3}, rounds=5)
    batch = one.next_batch()
    assert tickets(batch) == [1, 4, 5]  # 0 and 2 gave way to 3 and 4, then 3 to 5
    assert engine.asked == [0, 1, 2, 3, 4, 5]
    assert one.stats()["resampled_groups"] == 3
    assert one.stats()["resampled_tokens"] == 6  # two responses of one token each
    assert ledger.ended[End.FILTERED] == 3
    one.ack(batch)
    assert tickets(one.next_batch()) == [6, 7, 8]
    assert one.stats()["resampled_groups"] == 0


def test_a_policy_that_is_right_everywhere_does_not_sample_for_ever() -> None:
    one, engine, _ = source(set(range(100)), rounds=2)
    assert tickets(one.next_batch()) == [6, 7, 8]  # of the last round, as they are
    assert len(engine.asked) == 9


def test_resuming_skips_no_prompt_and_doubles_none() -> None:
    one, _, _ = source({0, 2, 3}, rounds=5)
    one.ack(one.next_batch())
    other, engine, _ = source({0, 2, 3}, rounds=5)
    other.load_state_dict(one.state_dict())
    assert tickets(other.next_batch()) == [6, 7, 8] == engine.asked


@pytest.mark.parametrize(
    ("rewards", "contrast"),
    [
        ([0.0, 1.0], True),
        ([1.0, 1.0], False),
        ([0.1 + 0.2, 0.3], False),  # rounding
        ([NAN, 1.0], False),
        ([NAN, 1.0, 0.0], True),
        ([NAN, NAN], False),
    ],
)
def test_contrast(rewards: list[float], contrast: bool) -> None:
    assert has_contrast(Group(0, Prompt(0, "", ()), tuple(map(sample, rewards)))) is contrast
