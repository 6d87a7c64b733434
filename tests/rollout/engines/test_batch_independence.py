"""A response is the same, bit for bit, whatever else is decoded beside it."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.rollout.engines.decode import padded
from polopt.types import Sampling
from random_models import (
    SHARED,
    VOCABULARY,
    assert_same,
    assert_same_groups,
    builtin_model,
    generated,
    of_architecture,
    request,
)

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 15, 16, 17, 31, 33, 47, 64, 65, 90, 127, 128, 129]  # around every block size


@pytest.fixture(scope="module", params=["tiny", "small", "qwen3"])
def language_model(request):
    if request.param == "qwen3":
        return of_architecture("qwen3", **SHARED, head_dim=8)
    return builtin_model(request.param)


def test_bits_do_not_depend_on_the_batch(language_model) -> None:
    requests = [request(i, length, count=1 + i % 4) for i, length in enumerate(LENGTHS)]
    engine = LocalEngine(language_model)
    together = generated(engine, requests)
    lengths = {len(s.tokens) for g in together.values() for s in g.samples}
    assert len(lengths) > 5, "rows that stop at different times"
    assert_same_groups(generated(engine, requests[::-1]), together)
    for i in (0, 1, 2, 4, 9, 14):
        assert_same_groups(generated(engine, [requests[i]]), together)
    rng = random.Random(0)
    for _ in range(3):
        some = rng.sample(requests, rng.randrange(2, len(requests)))
        assert_same_groups(generated(engine, some), together)


def test_rows_that_go_on_keep_their_tokens_when_others_leave() -> None:
    """Every fourth token ends a row: most of 64 have left when the last ones are still going."""
    often = replace(builtin_model(), stop_ids=tuple(range(3, VOCABULARY, 4)))
    engine = LocalEngine(often)
    requests = [request(i, 1 + i % 20) for i in range(64)]
    together = generated(engine, requests)
    lengths = {i: int(group.samples[0].mask.sum()) for i, group in together.items()}
    longest = sorted(lengths, key=lengths.__getitem__)[-6:]
    assert sorted(lengths.values())[40] + 3 < lengths[longest[0]], "many leave, some go on"
    for i in longest:
        assert_same_groups(generated(engine, [requests[i]]), together)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_bits_do_not_depend_on_the_batch_with_two_threads(name: str) -> None:
    torch.set_num_threads(2)
    sampling = Sampling(max_new_tokens=6)
    requests = [request(i, length, 12, sampling) for i, length in enumerate((1, 17, 40))]
    engine = LocalEngine(builtin_model(name))
    together = generated(engine, requests)
    for some in (requests[:1], requests[2:], requests[:0:-1]):
        assert_same_groups(generated(engine, some), together)


@pytest.mark.parametrize("length", [1, 20])
def test_a_group_of_one_has_the_first_of_a_group_of_many(language_model, length: int) -> None:
    engine = LocalEngine(language_model)
    many = generated(engine, [request(3, length, count=40)])[3]
    for count in (1, 2, 5, 17, 33):  # 17 and 33 leave a remainder of any block
        few = generated(engine, [request(3, length, count=count)])[3]
        for sample, expected in zip(few.samples, many.samples, strict=False):
            assert_same(sample, expected)
    assert len({s.tokens.tobytes() for s in many.samples}) > 1


def test_waiting_rows_take_the_slots_of_those_that_ended() -> None:
    """Every fourth token ends a row; at most 24 rows of 140 are decoded at once."""
    often = replace(builtin_model(), stop_ids=tuple(range(3, VOCABULARY, 4)))
    requests = [request(i, 1 + 13 * i, count=20) for i in range(7)]  # of one and of two blocks
    together = generated(LocalEngine(often), requests)
    engine, seen = LocalEngine(often, rows=24), list[int]()
    with often.model.register_forward_pre_hook(
        lambda *of: seen.append(of[2]["input_ids"].shape), with_kwargs=True
    ):
        groups = answered(engine, requests)
    assert [group.ticket for group in groups] == list(range(7)) and engine.poll() == []
    assert_same_groups({group.ticket: group for group in groups}, together)
    decoded = [rows for rows, width in seen if width == 1]
    assert max(decoded) == padded(24, CPU)
    alone = max(len(s.tokens) - s.prompt_length for g in groups for s in g.samples)
    assert (
        alone
        < len(decoded)
        < sum(max(len(s.tokens) - s.prompt_length for s in g.samples) for g in groups)
    ), "longer than one batch, shorter than one batch after the other"


def test_a_group_larger_than_the_rows_is_split() -> None:
    engine = LocalEngine(builtin_model(), rows=16)
    large = generated(engine, [request(0, 4, count=50)])[0]
    assert len(large.samples) == 50
    whole = LocalEngine(builtin_model())
    assert_same_groups({0: large}, generated(whole, [request(0, 4, count=50)]))


def test_the_same_request_twice_is_answered_twice() -> None:
    engine = LocalEngine(builtin_model())
    twin = request(0, 4, count=3)
    one, two = answered(engine, [twin, twin])
    assert_same_groups({0: one}, {0: two})
    assert engine.poll() == []


def test_draws_depend_on_seed_ticket_and_sample_alone() -> None:
    language_model = builtin_model()

    def tokens(seed: int, ticket: int) -> list[list[int]]:
        same = request(1, 8)  # the same prompt under every ticket
        group = generated(
            LocalEngine(language_model), [Request(ticket, same.prompt, 2, same.sampling, seed)]
        )[ticket]
        return [sample.tokens.tolist() for sample in group.samples]

    base = tokens(1, 1)
    torch.manual_seed(99)
    np.random.seed(99)
    assert tokens(1, 1) == base
    assert tokens(2, 1) != base
    assert tokens(1, 2) != base
    assert base[0] != base[1]


def test_out_of_memory_halves_the_rows_and_keeps_the_numbers() -> None:
    language_model, lines, seen = builtin_model(), list[str](), list[int]()
    requests = [request(i, 4 + i, count=10) for i in range(4)]
    whole = generated(LocalEngine(language_model), requests)
    engine = LocalEngine(language_model, tell=lines.append)

    def full(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        seen.append(len(given["input_ids"]))
        if seen[-1] > padded(20, CPU):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with language_model.model.register_forward_pre_hook(full, with_kwargs=True):
        found = generated(engine, requests)
    assert_same_groups(found, whole)
    assert lines == ["out of memory while decoding; going on with 20 rows at once"]


def test_no_room_for_one_row_is_an_error() -> None:
    language_model = builtin_model()
    engine = LocalEngine(language_model)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with language_model.model.register_forward_pre_hook(full):
        engine.submit([request(0, 4)])
        with pytest.raises(torch.OutOfMemoryError):
            engine.poll()
        with pytest.raises(torch.OutOfMemoryError):  # and not "cannot decode this architecture"
            LocalEngine(language_model)
