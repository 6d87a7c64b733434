"""Threads that roll out while somebody trains: the same batches at S = 0, bounded lag beyond."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from polopt.coordination.flow import Flow
from polopt.coordination.ledger import End, Ledger
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.coordination.threaded import Taking, ThreadedSource
from polopt.errors import EngineError, StalledError
from polopt.isolated import CONCURRENT, workers
from polopt.isolated.origins import Origin
from polopt.rollout.engines import Request, Weights
from polopt.rollout.engines.shared import Asker, EngineThread
from polopt.rollout.groups import has_contrast
from polopt.rollout.timeline import Timeline
from polopt.types import Batch, Group, Prompt, Sampling
from queued_engine import Queued, stamped
from runs import wait_for

FIFO = Taking(lambda ticket, _: ticket.id)


class Engine(Queued):
    """Answers the oldest request; it may wait for leave, or fail."""

    def __init__(self, turn: Callable[[Request], None] = lambda _: None) -> None:
        super().__init__()
        self.turn = turn

    def poll(self) -> list[Group]:
        if not self.queue:
            return []
        request = self.queue.pop(0)
        self.turn(request)
        return [stamped(request, self.version)]


def sampled(dull: frozenset[int] = frozenset(), rounds: int = 0) -> Sampled:
    """The responses to every prompt earn 0 and 1; those to ``dull`` prompts 1 and 1."""

    def score(groups: Sequence[Group]) -> list[Group]:
        return [
            replace(
                g,
                samples=tuple(
                    replace(one, reward=float(i or g.ticket in dull))
                    for i, one in enumerate(g.samples)
                ),
            )
            for g in groups
        ]

    return Sampled(
        lambda place: Prompt(place, "", (1,)), 2, Sampling(), 0, score, has_contrast, rounds
    )


Make = Callable[..., ThreadedSource]


@pytest.fixture
def threaded() -> Iterator[Make]:
    made = list[ThreadedSource]()

    def make(
        ledger: Ledger,
        engines: Sequence[Engine],
        workers: int = 1,
        taking: Taking = FIFO,
        of: Sampled | None = None,
    ) -> ThreadedSource:
        timeline = Timeline()
        threads = [EngineThread(engine, timeline=timeline) for engine in engines]
        rollouters = [Rollouter(Asker(threads), of or sampled(), timeline) for _ in range(workers)]
        flow = Flow(ledger, timeline, engines=len(engines), max_age=taking.max_age)
        made.append(ThreadedSource(rollouters, ledger, dict, taking, flow))
        return made[-1]

    yield make
    for source in made:
        source.close()
    assert not [one.name for one in threading.enumerate() if one.name.startswith("polopt")]


def step(source: Any, version: int) -> Batch:
    batch = source.next_batch()
    source.publish(version)
    source.ack(batch)
    return batch


def lags(batch: Batch) -> list[int]:
    spans = [span for group in batch.groups for sample in group.samples for span in sample.spans]
    return [batch.taken_at - span.version for span in spans]


def test_whoever_waits_listens_to_what_the_threads_tell() -> None:
    heard = threading.Event()

    class Waits(Engine):
        def poll(self) -> list[Group]:
            assert heard.wait(20), "nobody listens"
            return super().poll()

        def publish(self, weights: Any, version: int) -> None:
            assert heard.wait(20), "nobody listens"
            super().publish(weights, version)

    def listen() -> None:
        if threading.current_thread() is threading.main_thread():
            heard.set()

    timeline, ledger = Timeline(), Ledger(3)
    thread = EngineThread(Waits(), timeline=timeline, listen=listen)
    deaf = EngineThread(Waits(), timeline=timeline)
    source, waiting = (
        ThreadedSource(
            [Rollouter(Asker([one]), sampled(), timeline)], of, dict, FIFO, Flow(of, timeline), hear
        )
        for one, of, hear in ((thread, ledger, lambda: None), (deaf, Ledger(3), listen))
    )
    try:
        source.publish(0)  # whose engine waits for somebody to listen
        assert heard.is_set()
        waiting.publish(0)
        heard.clear()
        assert len(waiting.next_batch().groups) == 3
        assert heard.is_set()
    finally:
        for one in (source, waiting):
            one.close()
        for one in (thread, deaf):
            one.close()


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_without_staleness_batches_are_those_of_generating_in_turn(
    threaded: Make, rounds: int
) -> None:
    of = sampled(frozenset({1, 3, 4, 7, 8, 9}), rounds)
    inline = InlineSource(Rollouter(Engine(), of), Ledger(3), dict)
    source = threaded(Ledger(3), [Engine(), Engine()], of=of)
    for one in (inline, source):
        one.publish(0)
    for version in range(1, 6):
        expected, batch = step(inline, version), step(source, version)
        assert [g.ticket for g in batch.groups] == [g.ticket for g in expected.groups]
        assert lags(batch) == [0] * 6
        assert batch.taken_at == expected.taken_at
        for same in ("resampled_groups", "resampled_tokens"):
            assert source.stats().get(same) == inline.stats().get(same)


@pytest.mark.parametrize(("s", "w"), [(1, 1), (2, 1), (1, 5), (3, 4)])
def test_lag_stays_within_the_bound_and_every_ticket_is_trained_once(
    threaded: Make, s: int, w: int
) -> None:
    ledger = Ledger(3, staleness=s, window=w)
    source = threaded(ledger, [Engine(), Engine()], workers=5)
    source.publish(0)
    seen, worst = list[int](), 0
    for version in range(1, 40):
        batch = step(source, version)
        seen += [group.ticket for group in batch.groups]
        worst = max(worst, *lags(batch))
    assert len({*seen}) == len(seen) == 39 * 3
    assert max(seen) < len(seen) + ledger.capacity
    assert 0 < worst <= ledger.lag_bound


def test_engines_go_on_while_nobody_asks_for_a_batch(threaded: Make) -> None:
    done = threading.Semaphore(0)
    source = threaded(Ledger(2, staleness=2), [Engine(lambda _: done.release())], workers=2)
    source.publish(0)
    assert all(done.acquire(timeout=30) for _ in range(6))  # (S + 1) P
    assert not done.acquire(timeout=0.2)  # and no more, before somebody trains
    step(source, 1)
    assert all(done.acquire(timeout=30) for _ in range(2))


def test_the_freshest_come_first_inside_the_window(threaded: Make) -> None:
    """Ticket 0 is slow; behind it, the window decides."""
    go = threading.Event()
    slow = Engine(lambda request: go.wait(30) and None if request.ticket == 0 else None)
    ledger = Ledger(1, staleness=3, window=4)
    newest = Taking(lambda ticket, _: -ticket.id)
    source = threaded(ledger, [slow, Engine()], workers=4, taking=newest)
    source.publish(0)
    while ledger.stats().ready < 2:  # 1 and 3, of the other engine
        pass
    assert [g.ticket for g in source.next_batch().groups] == [3]
    go.set()


def test_what_is_too_old_is_given_up_for_new_groups(threaded: Make) -> None:
    ledger = Ledger(2, staleness=3)
    taking = Taking(lambda ticket, _: ticket.id, max_age=1)
    source = threaded(ledger, [Engine()], workers=2, taking=taking)
    source.publish(0)
    while ledger.stats().ready < ledger.capacity:
        pass
    oldest = [max(lags(step(source, version))) for version in range(1, 12)]
    assert max(oldest) == 1
    assert ledger.ended["stale"] > 0


def test_an_error_of_an_engine_ends_the_run(threaded: Make) -> None:
    def fail(request: Request) -> None:
        if request.ticket == 4:
            raise EngineError("rollout.engine: it died")

    source = threaded(Ledger(3), [Engine(fail)])
    source.publish(0)
    step(source, 1)
    with pytest.raises(EngineError, match="it died"):
        step(source, 2)


def test_weights_that_do_not_arrive_are_of_no_version(threaded: Make) -> None:
    """The ledger hears of a version once every engine has proved that it serves it."""

    class Refuses(Engine):
        def publish(self, weights: Weights, version: int) -> None:
            if version == 1:
                raise EngineError("engine 2 does not hold the weights")
            super().publish(weights, version)

    ledger = Ledger(3, staleness=1)
    source = threaded(ledger, [Engine(), Refuses()], workers=2)
    source.publish(0)
    source.next_batch()
    with pytest.raises(EngineError, match="engine 2 does not hold"):
        source.publish(1)
    assert ledger.version == 0 and ledger.ended[End.TRAINED] == 0


def test_nobody_waits_for_ever(threaded: Make) -> None:
    go = threading.Event()
    taking = Taking(lambda ticket, _: ticket.id, patience=0.3)
    source = threaded(Ledger(2), [Engine(lambda _: go.wait(30) and None)], taking=taking)
    source.publish(0)
    with pytest.raises(StalledError, match=r"patience: no response in 0.3 s: .*running=2"):
        source.next_batch()
    go.set()


def test_a_long_claim_is_no_stall_while_its_groups_get_done(threaded: Make) -> None:
    """One thread has claimed the whole batch, which takes longer than a group may."""
    taking = Taking(lambda ticket, _: ticket.id, patience=0.4)
    source = threaded(Ledger(6), [Engine(lambda _: time.sleep(0.15))], taking=taking)
    source.publish(0)
    start = time.monotonic()
    assert len(source.next_batch().groups) == 6
    assert time.monotonic() - start > 0.6


def test_an_end_does_not_wait_for_rewards_that_are_queued(
    threaded: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are worker processes, each of a minute."""
    monkeypatch.setattr("polopt.coordination.threaded.SCORED", 0.5)
    begun = list[int]()

    def score(groups: Sequence[Group]) -> list[Group]:
        begun.append(len(groups))
        workers.call(Origin("sleep", "asyncio"), {"delay": 60.0}, timeout=90.0, seed=0)
        return list(groups)

    count = 2 * CONCURRENT
    source = threaded(
        Ledger(count, staleness=1), [Engine()], count, of=replace(sampled(), score=score)
    )
    source.publish(0)
    wait_for(lambda: len(begun) == count)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 40


def test_a_resumed_source_issues_again_what_was_not_trained_on(threaded: Make) -> None:
    source = threaded(Ledger(2, staleness=2), [Engine()], workers=3)
    source.publish(0)
    trained = [g.ticket for version in (1, 2, 3) for g in step(source, version).groups]
    state = source.state_dict()
    resumed = threaded(Ledger(2, staleness=2), [Engine()], workers=3)
    resumed.load_state_dict(state)
    resumed.publish(3)
    trained += [g.ticket for version in range(4, 9) for g in step(resumed, version).groups]
    assert sorted(trained) == list(range(16))
