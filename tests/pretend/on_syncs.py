"""How often the host waits for the pretend device, and that what does not wait gives the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, Syncs, syncs

from polopt.math.reduce import AGGREGATIONS
from polopt.math.surrogates import clipped
from polopt.memory import logits
from polopt.models import LanguageModel
from polopt.objective import TOKEN, PolicyObjective, policy_loss, sides, step_terms
from polopt.recipe import Update
from polopt.roles import Actor
from polopt.rollout.engines import LocalEngine, Request, decode, local
from polopt.types import (
    Advantages,
    Experience,
    Group,
    Prompt,
    Recorded,
    Sampling,
    TokenRows,
)
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss
from random_models import (
    SHARED,
    STOP,
    TOKENIZER,
    VOCABULARY,
    absolute_positions,
    always,
    builtin_model,
    generated,
    of_architecture,
    peaked,
    request,
)

A, B = (TOKENIZER(text)["input_ids"][0] for text in "ab")
OFTEN = tuple(range(3, VOCABULARY, 4))  # a model that stops at every fourth token


def moved(language_model: LanguageModel) -> LanguageModel:
    language_model.model.to(DEVICE)
    return language_model


def deep(layers: int) -> LanguageModel:
    return of_architecture("llama", **SHARED | {"num_hidden_layers": layers})


def counted(engine: LocalEngine, requests: list[Request]) -> Syncs:
    with syncs() as found:
        generated(engine, requests)
    return found


@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("layers", [1, 3])
def test_sixteen_tokens_are_decoded_for_one_sync(tokens: int, layers: int) -> None:
    model = moved(deep(layers))
    model = LanguageModel(model.model, model.tokenizer, (VOCABULARY - 1,))
    sampling = Sampling(max_new_tokens=tokens, min_new_tokens=tokens)  # they go to the end
    found = counted(LocalEngine(model), [request(i, 5 + i, 4, sampling) for i in range(3)])
    assert found.total == tokens // 16, str(found)


SAMPLINGS = {
    "plain": Sampling(max_new_tokens=40),
    "the last stretch is short": Sampling(max_new_tokens=21),
    "at least": Sampling(max_new_tokens=24, min_new_tokens=19),
    "greedy": Sampling(temperature=0.0, max_new_tokens=20),
    "nucleus": Sampling(temperature=0.7, top_p=0.8, max_new_tokens=20),
    "one": Sampling(max_new_tokens=1),
}


@pytest.mark.parametrize("rows", [512, 5])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_responses_are_those_of_the_cpu(name: str, rows: int) -> None:
    """At most five rows at once: groups are split, and begin while others are in their midst."""
    requests = [request(i, 1 + 17 * i, 4, SAMPLINGS[name]) for i in range(4)]
    # Each stops elsewhere, or none would make room.
    own, on_device = builtin_model(), moved(builtin_model())
    for stop in ((STOP,), OFTEN):
        engines = (
            LocalEngine(LanguageModel(one.model, TOKENIZER, stop), rows=rows)
            for one in (own, on_device)
        )
        assert_same(*(generated(engine, requests) for engine in engines))


def assert_same(expected: dict[int, Group], found: dict[int, Group]) -> None:
    for ticket, group in expected.items():
        for one, other in zip(group.samples, found[ticket].samples, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert np.allclose(one.logp_rollout, other.logp_rollout, atol=1e-5, equal_nan=True)
            assert (one.finish, one.spans) == (other.finish, other.spans)


def test_strings_that_end_a_response_are_found_between_two_looks() -> None:
    requests = [request(0, 2, 24, Sampling(max_new_tokens=40, stop=("ab", "bbb")))]
    own = generated(LocalEngine(always(A, B)), requests)
    found = generated(LocalEngine(moved(always(A, B))), requests)
    assert len({len(sample.tokens) for sample in own[0].samples}) > 3
    assert_same(own, found)


def test_a_row_beyond_its_end_stays_within_the_context() -> None:
    """Learned positions end with the context; rows that began later are still going then."""
    own = absolute_positions()
    context = own.model.config.n_positions
    sampling = Sampling(max_new_tokens=20)
    requests = [request(i, context - 20 if i else 3, 2, sampling) for i in range(4)]
    engine = LocalEngine(moved(absolute_positions()), rows=3)
    assert_same(generated(LocalEngine(own), requests), generated(engine, requests))


def test_who_listens_hears_every_token() -> None:
    engine, heard = LocalEngine(moved(always(A))), list[int]()
    engine.submit([request(0, 3, 1, Sampling(max_new_tokens=20))])
    engine.poll(lambda tokens: heard.append(len(tokens)))
    assert heard == list(range(1, 21))


def low(language_model: LanguageModel) -> LocalEngine:
    return LocalEngine(moved(language_model), autocast=True)


def test_weights_cast_once_give_the_numbers_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(i, 5 + i, 3, Sampling(max_new_tokens=20)) for i in range(2)]
    engine = low(builtin_model())
    once = generated(engine, requests)
    monkeypatch.setattr(decode, "STRETCH", 4)
    with monkeypatch.context() as patch:
        patch.setattr(local, "Lowered", lambda _: local.nullcontext())
        plainly = generated(engine, requests)
    assert_same(plainly, once)
    assert_same(generated(low(builtin_model()), requests), once)
    # And they are in bfloat16 at all.
    wide = generated(LocalEngine(builtin_model()), requests)
    one, other = (g[0].samples[0].logp_rollout[5] for g in (wide, once))
    assert 1e-5 < abs(one - other) < 0.1


def test_an_update_serves_the_weights_that_it_is_told_of() -> None:
    language_model = moved(builtin_model())
    engine, requests = low(language_model), [request(0, 5, 2)]
    before = generated(engine, requests)
    peaked(language_model.model, 0.5)
    engine.publish(dict, 3)
    after = generated(engine, requests)
    assert [s.spans[0].version for s in after[0].samples] == [3, 3]
    again = builtin_model()
    peaked(again.model, 0.5)
    fresh = low(again)
    fresh.publish(dict, 3)
    assert_same(after, generated(fresh, requests))
    assert before[0].samples[0].logp_rollout[5] != after[0].samples[0].logp_rollout[5]


@pytest.fixture
def attention_in_bfloat16() -> Iterator[None]:
    """As fused kernels read it; the plain one casts what it reads to float32."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    yield
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)


def test_what_is_cast_for_a_token_does_not_grow_with_the_columns_in_view(
    attention_in_bfloat16: None,
) -> None:
    """Neither keys nor mask, and no weights: with one block of 64 columns in view, and with two."""
    engine = low(deep(2))
    engine._language_model = LanguageModel(engine._language_model.model, TOKENIZER, ())

    def cast(prompt: int, tokens: int) -> int:
        sampling = Sampling(max_new_tokens=tokens)
        return counted(engine, [request(0, prompt, 1, sampling)]).cast

    near, far = (cast(prompt, 32) - cast(prompt, 16) for prompt in (17, 81))
    assert near == far > 0
    matrix = SHARED["hidden_size"] * SHARED["intermediate_size"]
    assert near / 16 < matrix, "activations of one row are less than one matrix"


def batch(rows: int, length: int) -> tuple[Experience, Advantages]:
    """Each row with a prompt of its own, of four tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCABULARY, (rows, 4 + length), generator=generator)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[::2, -1] = False  # of two lengths
    mask = attention[:, 4:]
    given = [tokens, attention, mask, torch.full(mask.shape, -5.5), mask * 1.0, mask.any(-1)]
    tokens, attention, mask, logp, advantages, valid = (x.to(DEVICE) for x in given)
    group = torch.arange(rows, device=DEVICE)
    rewards = torch.zeros(rows, device=DEVICE)
    experience = Experience(
        mask, group, rewards, logp_old=logp, tokens=TokenRows(tokens, attention, 4, 0.7, 2)
    )
    return experience, Advantages(advantages, mask, valid)


def of_update(layers: int, length: int, passes: int, shown: int = 0, **update: int) -> Syncs:
    """Of an update on so many micro-batches of two rows, some rows of which the record shows."""
    objective = PolicyObjective(
        TOKEN, partial(clipped, low=0.2, high=0.2), AGGREGATIONS["seq_mean_token_mean"]
    )
    loss = Loss(
        {"logp", "entropy_told"},
        lambda experience, advantages: step_terms(experience, advantages, objective),
        lambda outputs, terms: policy_loss(outputs.logp, outputs.entropy, terms, objective),
        sides=lambda outputs, terms: sides(outputs.logp, terms, objective),
    )
    settings = Update(learning_rate=1e-3, micro_batch_tokens=2 * (4 + length), **update)
    actor = Actor(moved(deep(layers)))
    learner = FirstOrder(actor, loss, settings, steps=10, seed=7, name="policy")
    experience, advantages = batch(2 * passes, length)
    if shown:
        slot = torch.arange(2 * passes).clamp(max=shown)
        experience = replace(experience, recorded=Recorded(slot.to(DEVICE), shown))
    learner.update(experience, advantages, 0)  # it also looks at what is exact for the model
    with syncs() as found:
        learner.update(experience, advantages, 1)
    noted = learner.taken()
    assert (noted is None) is (not shown)
    if noted is not None:
        assert noted.sides is not None and noted.sides.any(), "the ratio is far from 1"
        assert (noted.advantages[:, 0] == 1).all()
    return found


def test_the_syncs_of_an_update_grow_with_micro_batches_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logits, "ON_DEVICE", 0)  # logits of 128 tokens at once
    few = of_update(1, 8, 2)
    for layers, length in ((1, 100), (3, 8), (3, 100)):
        other = of_update(layers, length, 2)
        assert (other.reads, other.writes) == (few.reads, few.writes)
    three, four = of_update(1, 8, 3).total, of_update(1, 8, 4).total
    assert four - three == three - few.total, "the same for each micro-batch"
    assert four - three <= 4, str(few)


@pytest.mark.parametrize("update", [{}, {"epochs": 2}, {"epochs": 2, "minibatches": 2}])
def test_what_is_recorded_of_tokens_waits_for_nothing(update: dict[str, int]) -> None:
    plain, noted = (of_update(1, 8, 2, shown, **update) for shown in (0, 3))
    assert noted.reads.total() == plain.reads.total(), f"{noted}\n\n{plain}"
    assert noted.writes == plain.writes, f"{noted}\n\n{plain}"


def test_prompts_are_moved_together() -> None:
    """What the host knows of prompts and draws goes without waiting, however many there are."""
    engine = LocalEngine(moved(always(A)))
    for count in (1, 9):
        sampling = Sampling(max_new_tokens=16)
        requests = [
            Request(i, Prompt(i, "", (A, B) * (i + 1)), 1, sampling, 0) for i in range(count)
        ]
        assert counted(engine, requests).total == 1
