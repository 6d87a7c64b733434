"""Engines in threads: everybody gets what he asked for, weights change between two turns."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.rollout.engines.shared import Asker, ClosedError, EngineThread
from polopt.types import Group, Sampling
from random_models import assert_same_groups, builtin_model, generated, request


def by_ticket(groups: Sequence[Group]) -> dict[int, Group]:
    return {group.ticket: group for group in groups}


@pytest.fixture
def threads() -> Iterator[list[EngineThread]]:
    made = [EngineThread(LocalEngine(builtin_model())) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def test_answers_are_those_of_an_engine_alone(threads: list[EngineThread]) -> None:
    requests = [request(i, 1 + 3 * i, count=3) for i in range(5)]
    alone = generated(LocalEngine(builtin_model()), requests)
    assert_same_groups(by_ticket(answered(Asker(threads), requests)), alone)
    assert_same_groups(by_ticket(answered(Asker(threads[:1]), requests)), alone)


def test_everybody_gets_what_he_asked_for(threads: list[EngineThread]) -> None:
    """The same tickets, of other prompts and with other sampling, at the same time."""
    found = dict[int, list[Group]]()

    def ask(one: int) -> None:
        sampling = Sampling(1.0 + one % 2, max_new_tokens=8 + one)
        requests = [request(i, 2 + one, 2, sampling) for i in range(3)]
        found[one] = answered(Asker(threads), requests)

    asking = [threading.Thread(target=ask, args=(one,)) for one in range(6)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(60)
    for one in range(6):
        sampling = Sampling(1.0 + one % 2, max_new_tokens=8 + one)
        alone = generated(
            LocalEngine(builtin_model()), [request(i, 2 + one, 2, sampling) for i in range(3)]
        )
        assert_same_groups(by_ticket(found[one]), alone)


def test_weights_arrive_in_the_middle_of_a_response() -> None:
    """Tokens before the update are those of the old weights, to the bit; each says its version."""
    model, other = builtin_model(seed=1), builtin_model(seed=2)
    asked = [request(0, 5, 4, Sampling(max_new_tokens=300, min_new_tokens=300))]
    old = generated(LocalEngine(builtin_model(seed=1)), asked)[0]

    updates = list[Callable[[], None]]()

    def follow() -> None:
        model.model.load_state_dict(other.model.state_dict())

    engine = LocalEngine(model, follow=lambda: updates and updates.pop()())
    engine.publish(dict, 7)
    updates.append(follow)
    engine.submit(asked)
    assert engine.poll() == []  # it goes on
    engine.publish(dict, 8)
    while not (groups := engine.poll()):
        pass
    for sample, before in zip(groups[0].samples, old.samples, strict=True):
        first, second = sample.spans
        assert (first.version, second.version) == (7, 8)
        assert (first.start, second.start, second.end) == (5, first.end, len(sample.tokens))
        assert 16 <= first.end - 5 < 300
        same = slice(5, first.end)
        assert (sample.tokens[same] == before.tokens[same]).all()
        assert (sample.logp_rollout[same] == before.logp_rollout[same]).all()
        assert (sample.tokens[first.end :] != before.tokens[first.end :]).any()


class Breaks(LocalEngine):
    """It has proven itself; then it breaks."""

    def __init__(self) -> None:
        self.broken = False
        super().__init__(builtin_model())
        self.broken = True

    def poll(self, heard: object = None) -> list[Group]:
        if self.broken:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().poll()


def test_an_error_reaches_whoever_waits_and_who_asks_later() -> None:
    thread = EngineThread(Breaks())
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            answered(Asker([thread]), [request(0, 3)])
    with pytest.raises(torch.OutOfMemoryError):
        Asker([thread]).publish(dict, 1)
    thread.close()


def test_who_waits_for_a_closed_engine_is_told() -> None:
    thread = EngineThread(LocalEngine(builtin_model()))
    told = list[type]()

    def wait() -> None:
        long = Sampling(max_new_tokens=400, min_new_tokens=400)
        try:
            answered(Asker([thread]), [Request(0, request(0, 3).prompt, 2, long, 1)])
        except BaseException as error:
            told.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    thread.close()
    waiting.join(30)
    assert told == [ClosedError]
