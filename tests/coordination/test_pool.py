"""Groups that are used again: which ones, for how long, and without a slot of the ledger."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polopt.coordination.ledger import Ledger
from polopt.coordination.pool import Pool, Reuse, Reusing, drawn
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.types import (
    Advantages,
    Batch,
    Experience,
    Finish,
    Group,
    Outcome,
    Prompt,
    Sample,
    Sampling,
    Span,
)
from queued_engine import Queued


def prompt(place: int) -> Prompt:
    return Prompt(place, f"prompt {place}", (1, place), {"answer": place})


def group(ticket: int, version: int, count: int = 2) -> Group:
    sample = Sample(
        np.array([1, ticket, 3]),
        np.array([False, False, True]),
        np.array([np.nan, np.nan, -0.5], dtype=np.float32),
        2,
        spans=(Span(version, 2, 3),),
    )
    return Group(ticket, prompt(ticket), (sample,) * count)


def trained(pool: Pool, sizes: dict[int, float], version: int = 0) -> dict[str, float]:
    """The pool sees a batch of groups whose advantages are plus and minus their size, and keeps."""
    tickets = [ticket for ticket in sizes for _ in range(2)]
    values = [sign * sizes[ticket] for ticket in sizes for sign in (1, -1)]
    mask = torch.tensor([True, True, False]).expand(len(tickets), 3)
    advantages = torch.tensor(values)[:, None].expand(-1, 3)
    experience = Experience(mask, torch.tensor(tickets), torch.zeros(len(tickets)))
    metrics = pool.update(experience, Advantages(advantages, mask, mask[:, 0]), 0)
    pool.offer(group(ticket, version) for ticket in sizes)
    return metrics


def pool(groups: int = 1, age: int = 2, half_life: float = 1.0, seed: int = 3) -> Pool:
    return Pool(Reuse(groups, age, half_life, seed), prompt)


def test_odds_are_those_of_drawing_one_after_the_other() -> None:
    """Weights 1, 2, 5: first drawn 1/8, 2/8, 5/8; of two drawn, 0 and 1 are together in 13 %."""
    weights, count = {0: 1.0, 1: 2.0, 2: 5.0, 3: 0.0}, 20_000
    first = Counter(drawn(weights, 1, seed)[0] for seed in range(count))
    odds = [first[name] / count for name in range(3)]
    assert odds == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)
    pairs = Counter(tuple(drawn(weights, 2, seed)) for seed in range(count))
    both = 1 / 8 * 2 / 7 + 2 / 8 * 1 / 6  # 0 then 1, or 1 then 0
    assert pairs[0, 1] / count == pytest.approx(both, abs=0.01)
    assert drawn(weights, 9, 0) == [0, 1, 2]  # without replacement, and never a weight of 0
    assert drawn({}, 2, 0) == []


def test_large_advantages_are_drawn_more_often_and_age_halves_them() -> None:
    counts = Counter[int]()
    for seed in range(150):
        one = pool(age=9, half_life=0.5, seed=seed)
        trained(one, {0: 1.0, 1: 0.0}, version=0)
        trained(one, {2: 0.5}, version=2)  # at version 3: 1/64 against 0.5/4, 1 to 8
        counts.update(g.ticket for g in one.draw(3))
    assert counts[1] == 0
    assert counts[2] / 150 == pytest.approx(8 / 9, abs=0.09)  # 2/3 and 1/2 without the age or |A|


def test_what_is_too_old_is_never_used_again() -> None:
    one = pool(groups=9, age=2)
    trained(one, {0: 1.0}, version=0)
    trained(one, {1: 1.0}, version=1)
    assert [g.ticket for g in one.draw(2)] == [0, 1]
    assert [g.ticket for g in one.draw(3)] == [1]
    assert [g.ticket for g in one.draw(2)] == [1]  # given up for good
    assert trained(one, {}) == {"reuse/groups": 1.0, "reuse/age": 1.0}
    assert one.draw(4) == []
    assert trained(one, {}) == {"reuse/groups": 0.0}


def test_the_oldest_token_is_the_age() -> None:
    one = pool(age=1)
    trained(one, {0: 1.0}, version=3)
    mixed = replace(group(0, 3).samples[0], spans=(Span(1, 2, 3), Span(3, 3, 4)))
    one.offer([Group(0, prompt(0), (mixed,))])
    assert one.draw(3) == []


def test_draws_are_a_function_of_seed_and_version() -> None:
    def draws(seed: int) -> list[list[int]]:
        one = pool(groups=3, age=9, seed=seed)
        trained(one, dict.fromkeys(range(12), 1.0))
        return [[g.ticket for g in one.draw(version)] for version in range(4)]

    assert draws(1) == draws(1) != draws(2)
    assert len({tuple(one) for one in draws(1)}) > 1


def test_a_checkpoint_holds_every_bit(tmp_path: Path) -> None:
    hostile = Sample(
        np.array([1, 0, 7, 2**40]),
        np.array([False, False, True, True]),
        np.array([np.nan, np.nan, -0.1, -1e-30], dtype=np.float32),
        2,
        spans=(Span(0, 2, 3), Span(1, 3, 4)),
        finish=Finish.LENGTH,
        sampling=Sampling(0.7, 1.0, 5, 1, ("a", "\n")),
        reward=0.1 + 0.2,
        parts={"one": math.nan, "two": -1e300},
        outcome=Outcome.WRONG,
        token_rewards=np.array([np.nan, 0, 0.25, 1], dtype=np.float32),
    )
    bare = replace(hostile, reward=math.nan, parts={}, token_rewards=None, spans=())
    one = pool(groups=5, age=9)
    trained(one, {0: 1.0, 4: 1 / 3})
    one.offer([Group(4, prompt(4), (hostile, bare), greedy=hostile)])
    counters = one.save(tmp_path)

    other = pool(groups=5, age=9)
    other.load(tmp_path, counters)
    for expected, found in zip(one.draw(1), other.draw(1), strict=True):
        assert found.prompt == expected.prompt and found.ticket == expected.ticket
        samples = [
            (*g.samples, *([] if g.greedy is None else [g.greedy])) for g in (expected, found)
        ]
        assert (found.greedy is None) == (expected.greedy is None)
        for a, b in zip(*samples, strict=True):
            for name, value in vars(a).items():
                if isinstance(value, np.ndarray):
                    assert vars(b)[name].dtype == value.dtype
                    assert vars(b)[name].tobytes() == value.tobytes()
                else:
                    assert repr(vars(b)[name]) == repr(value)
    trained(one, {})
    again = tmp_path / "again"
    again.mkdir()
    other.save(again)
    for name in ("groups.bin", "sizes.json"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_an_empty_pool_is_saved_too(tmp_path: Path) -> None:
    assert pool().save(tmp_path) == {"groups": 0}
    other = pool()
    other.load(tmp_path, {"groups": 0})
    assert other.draw(5) == []


class Engine(Queued):
    """Answers everything at once."""

    def poll(self) -> list[Group]:
        done, self.queue = self.queue, []
        return [group(request.ticket, self.version) for request in done]


def scored(groups: Sequence[Group]) -> list[Group]:
    return list(groups)


def reusing(fresh: int, again: int, age: int = 2) -> tuple[Reusing, Pool, Ledger]:
    ledger, one = Ledger(fresh), pool(groups=again, age=age)
    rollouter = Rollouter(Engine(), Sampled(prompt, 2, Sampling(), 0, scored))
    return Reusing(InlineSource(rollouter, ledger, dict), one), one, ledger


def step(source: Reusing, one: Pool, version: int) -> Batch:
    batch = source.next_batch()
    trained_on = {g.ticket: 1.0 for g in batch.groups}
    mask = torch.ones(2 * len(trained_on), 1, dtype=torch.bool)
    tickets = torch.tensor([ticket for ticket in trained_on for _ in range(2)])
    one.update(
        Experience(mask, tickets, torch.zeros(len(tickets))),
        Advantages(mask.float(), mask, mask[:, 0]),
        0,
    )
    source.publish(version)
    source.ack(batch)
    return batch


def test_a_batch_is_new_groups_and_used_ones_and_only_new_ones_hold_slots() -> None:
    source, one, ledger = reusing(fresh=2, again=3)
    source.publish(0)
    seen = list[int]()
    for version in range(1, 30):
        batch = step(source, one, version)
        tickets = [g.ticket for g in batch.groups]
        assert tickets == sorted(tickets) and len({*tickets}) == len(tickets)
        assert len(tickets) == min(5, 2 * version)
        new = [g.ticket for g in batch.fresh.groups]
        assert not batch.reused & {*new} and batch.reused <= {*seen}
        ages = [batch.taken_at - g.samples[0].spans[0].version for g in batch.groups]
        assert max(ages) <= 2
        assert ledger.stats().taken == 0 and ledger.ended["trained"] == 2 * version
        seen += new
    assert seen == [*range(58)]  # new groups are what they are without a pool


def test_the_log_probs_stay_those_of_the_policy_that_sampled() -> None:
    source, one, _ = reusing(fresh=1, again=1)
    source.publish(0)
    first = step(source, one, 1).groups[0]
    second = step(source, one, 2)
    assert second.reused == {0} and second.groups[0] is first


def test_nobody_deadlocks_where_most_of_a_batch_is_used_again() -> None:
    """A pool whose groups held slots would fill the ledger, and the source would wait for ever."""
    source, one, _ = reusing(fresh=1, again=7, age=50)
    source.publish(0)
    done = threading.Event()

    def train() -> None:
        for version in range(1, 40):
            step(source, one, version)
        done.set()

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    thread.join(30)
    assert done.is_set()
