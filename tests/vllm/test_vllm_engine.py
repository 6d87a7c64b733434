"""The engine of vLLM serves our weights, and says of each token what we would say of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from serving_models import TOLERANCE, change, farthest, given, plain, request, small, weights

from polopt.errors import EngineError
from polopt.models import LanguageModel
from polopt.rollout.engines import LocalEngine, answered
from polopt.rollout.engines.vllm import VllmEngine
from polopt.types import Finish, Span

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return small()


@pytest.fixture(scope="module")
def engine(model: LanguageModel) -> Iterator[VllmEngine]:
    engine = VllmEngine(model)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "sampling",
    [
        {"max_new_tokens": 24},
        {"max_new_tokens": 24, "temperature": 0.6},
        {"max_new_tokens": 24, "top_p": 0.7},
        {"max_new_tokens": 24, "min_new_tokens": 24},
        {"max_new_tokens": 24, "temperature": 0.0},
    ],
    ids=["plain", "cold", "nucleus", "no early end", "greedy"],
)
def test_log_probs_are_those_of_what_was_sampled_from(
    engine: VllmEngine, model: LanguageModel, sampling: dict[str, float]
) -> None:
    groups = answered(engine, [request(i, 3 + i, **sampling) for i in range(4)])
    assert [group.ticket for group in groups] == [0, 1, 2, 3]
    assert farthest(model, groups) < TOLERANCE


def test_prompts_are_more_than_one_step_reads(engine: VllmEngine, model: LanguageModel) -> None:
    groups = answered(engine, [request(i, length=900, max_new_tokens=4) for i in range(5)])
    assert farthest(model, groups) < TOLERANCE


def test_draws_depend_on_seed_ticket_and_sample(engine: VllmEngine) -> None:
    asked = [request(i, max_new_tokens=16) for i in range(3)]
    first, again = answered(engine, asked), answered(engine, asked[::-1])
    responses = [s.tokens[s.prompt_length :].tolist() for g in first for s in g.samples]
    assert responses == [s.tokens[s.prompt_length :].tolist() for g in again for s in g.samples]
    assert len(set(map(tuple, responses))) == 6


def test_ends_are_those_of_the_local_engine(engine: VllmEngine, model: LanguageModel) -> None:
    local = LocalEngine(model)

    def both(**sampling: object) -> list[tuple[list[int], Finish]]:
        samples = [
            answered(one, [request(5, count=1, temperature=0.0, **sampling)])[0].samples[0]
            for one in (engine, local)
        ]
        assert samples[0].mask.tolist() == samples[1].mask.tolist()
        return [(sample.tokens.tolist(), sample.finish) for sample in samples]

    ours, theirs = both(max_new_tokens=12)
    assert ours == theirs and ours[1] is Finish.LENGTH
    text = str(model.tokenizer.decode(ours[0][4:]))
    for least in (0, 8):  # a stop string counts before min_new_tokens, too
        ours, theirs = both(max_new_tokens=12, stop=(text[2:4],), min_new_tokens=least)
        assert ours == theirs and ours[1] is Finish.STOP and len(ours[0]) < 4 + 12


def test_a_token_that_stops_belongs_to_the_response(
    engine: VllmEngine, model: LanguageModel
) -> None:
    groups = answered(engine, [request(i, count=40, max_new_tokens=60) for i in range(4)])
    stopped = [s for g in groups for s in g.samples if s.finish is Finish.STOP]
    assert stopped, "of 160 responses of 60 tokens some end by chance"
    for sample in stopped:
        response = sample.tokens[sample.prompt_length :].tolist()
        assert response[-1] in model.stop_ids
        assert not set(response[:-1]) & set(model.stop_ids)


def test_new_weights_arrive(engine: VllmEngine, model: LanguageModel) -> None:
    asked = [request(i, max_new_tokens=16) for i in range(3)]
    change(model, seed=1)
    assert farthest(model, answered(engine, asked)) > 0.1, "what is served is still the old"
    engine.publish(lambda: weights(model), 7)
    groups = answered(engine, asked)
    assert farthest(model, groups) < TOLERANCE
    assert engine.version == 7
    for sample in groups[0].samples:
        assert sample.spans == (Span(7, 4, len(sample.tokens)),)


def test_an_update_in_the_middle_of_a_response(engine: VllmEngine, model: LanguageModel) -> None:
    engine.publish(lambda: weights(model), 10)
    engine.submit([request(0, count=3, max_new_tokens=900, min_new_tokens=900)])
    time.sleep(0.5)
    before = {name: weight.detach().clone() for name, weight in model.model.named_parameters()}
    change(model, seed=2)
    engine.publish(lambda: weights(model), 11)
    while not (groups := engine.poll()):
        pass
    (group,) = groups
    for sample in group.samples:
        old, new = sample.spans
        assert (old.version, new.version) == (10, 11)
        assert (old.start, old.end, new.end) == (4, new.start, 904)
        turn = old.end - sample.prompt_length
        now = (plain(model, sample) - given(sample)).abs()
        assert now[turn:].max() < TOLERANCE
        assert now[:turn].max() > 0.1
        newest = {name: weight.detach().clone() for name, weight in weights(model).items()}
        model.model.load_state_dict(before, strict=False)
        assert (plain(model, sample) - given(sample)).abs()[:turn].max() < TOLERANCE
        model.model.load_state_dict(newest, strict=False)


def test_keys_of_old_weights_are_not_served(engine: VllmEngine, model: LanguageModel) -> None:
    assert engine._server.vllm.vllm_config.cache_config.enable_prefix_caching
    long = [request(0, length=600, max_new_tokens=8)]  # several blocks of the cache
    answered(engine, long)
    change(model, seed=3)
    engine.publish(lambda: weights(model), 20)
    assert farthest(model, answered(engine, long)) < TOLERANCE


def test_it_sleeps_until_the_next_update(engine: VllmEngine, model: LanguageModel) -> None:
    """On a CPU vLLM keeps its memory; the order of calls is that of a GPU."""
    assert not engine.sleeps, "on a CPU it is not asked to"
    engine.rest()
    engine.sleeps = True
    try:
        engine.rest()
        engine.rest()  # once is enough
        asleep = engine._server.vllm.is_sleeping
        assert engine._server.call(asleep(), "a question")
        change(model, seed=4)
        engine.publish(lambda: weights(model), 30)
        assert not engine._server.call(asleep(), "a question")
    finally:
        engine.sleeps = False
    assert farthest(model, answered(engine, [request(0, max_new_tokens=8)])) < TOLERANCE


def test_weights_that_were_changed_on_the_way_are_noticed(
    engine: VllmEngine, model: LanguageModel
) -> None:
    right = weights(model)
    wrong = {n: w + 1e-3 if n.endswith("norm.weight") else w for n, w in right.items()}
    calls = cycle([wrong, right])  # what is sent, and what it is compared with
    with pytest.raises(EngineError, match=r"^rollout.engine: vllm serves other weights .*norm"):
        engine.publish(lambda: next(calls), 40)
    assert engine.version != 40
    engine.publish(lambda: right, 41)  # the next update repairs it
    assert farthest(model, answered(engine, [request(0, max_new_tokens=8)])) < TOLERANCE


def test_a_request_that_is_too_long_is_one_line(model: LanguageModel) -> None:
    """Last: whatever vLLM refuses ends the engine."""
    engine = VllmEngine(model)
    engine.submit([request(0, length=1200, max_new_tokens=8)])
    with pytest.raises(
        EngineError, match=r"^rollout.engine: \"vllm\" failed in generation: .*1024"
    ):
        while not engine.poll():
            pass
    assert torch.is_grad_enabled()
    engine.close()
