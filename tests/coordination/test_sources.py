"""Where batches come from: generated inline, or given."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from polopt.coordination.ledger import Ledger
from polopt.coordination.offline import OfflineSource
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.types import Group, Prompt, Sampling
from queued_engine import Queued

SAMPLING = Sampling(0.5)


def scored(groups: Sequence[Group]) -> list[Group]:
    return [
        replace(g, samples=tuple(replace(s, reward=float(g.ticket)) for s in g.samples))
        for g in groups
    ]


def inline() -> InlineSource:
    sampled = Sampled(lambda place: Prompt(place, f"p{place}", (1,)), 2, SAMPLING, 0, scored)
    return InlineSource(Rollouter(Queued(), sampled), Ledger(3), dict)


def consume(source: InlineSource, version: int) -> list[int]:
    batch = source.next_batch()
    source.publish(version)
    source.ack(batch)
    return [group.ticket for group in batch.groups]


def test_batches_are_the_stream_in_order_scored_and_of_one_version() -> None:
    source = inline()
    source.publish(0)
    for step in range(3):
        batch = source.next_batch()
        assert [group.ticket for group in batch.groups] == [3 * step, 3 * step + 1, 3 * step + 2]
        assert batch.groups[0].prompt.text == f"p{3 * step}"
        samples = [(group, sample) for group in batch.groups for sample in group.samples]
        assert len(samples) == 6
        for group, sample in samples:
            assert sample.reward == group.ticket
            assert sample.spans[0].version == batch.taken_at == step  # lag 0
            assert sample.sampling == SAMPLING
        source.publish(step + 1)
        source.ack(batch)
    assert {"time/rollout", "time/reward"} <= source.stats().keys()


def test_what_was_not_acknowledged_is_issued_again() -> None:
    source = inline()
    source.publish(0)
    assert consume(source, 1) == [0, 1, 2]
    state = source.state_dict()
    assert consume(source, 2) == [3, 4, 5]  # and then it dies
    resumed = inline()
    resumed.load_state_dict(state)
    resumed.publish(1)
    assert consume(resumed, 2) == [3, 4, 5]
    assert consume(resumed, 3) == [6, 7, 8]


def test_weights_that_go_back_are_refused() -> None:
    source = inline()
    source.publish(2)
    with pytest.raises(ValueError, match="went back"):
        source.publish(1)


def test_given_data_come_in_order_and_resume_where_they_were() -> None:
    asked = list[int]()

    def group(place: int) -> Group:
        asked.append(place)
        return Group(place, Prompt(place, "", (1,)), ())

    source = OfflineSource(group, 4)
    source.publish(3)
    batch = source.next_batch()
    assert [g.ticket for g in batch.groups] == [0, 1, 2, 3] == asked
    assert batch.taken_at == 3
    assert [g.ticket for g in source.next_batch().groups] == [0, 1, 2, 3]  # until acknowledged
    source.ack(batch)
    resumed = OfflineSource(group, 4)
    resumed.load_state_dict(source.state_dict())
    assert [g.ticket for g in resumed.next_batch().groups] == [4, 5, 6, 7]
    assert source.stats() == {}
