"""Drawing a token: the right frequencies, the right log-prob, and never an impossible token."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from polopt.rollout.engines import LocalEngine
from polopt.rollout.engines.sampler import draw, processed_logits, uniforms
from polopt.types import Sampling
from random_models import builtin_model, generated, request

JUST_BELOW_ONE = math.nextafter(1.0, 0.0)
INF = float("inf")


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()[None]


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50) * 2
    uniform = torch.tensor(np.random.default_rng(0).random(40_000))
    tokens, _ = draw(logits.expand(40_000, 50), uniform, greedy=False)
    counts = torch.bincount(tokens, minlength=50).double()
    expected = 40_000 * logits.double().softmax(0)
    rare = expected < 5  # pooled, as the test needs
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]]).numpy()
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]]).numpy()
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_a_response_that_is_continued_is_the_whole_one() -> None:
    """Its first tokens stand in the prompt of a second request, whose draws go on behind them."""
    engine, sampling = LocalEngine(builtin_model()), Sampling(max_new_tokens=24, min_new_tokens=24)
    first = request(3, 5, 2, sampling)
    whole = generated(engine, [first])[3].samples
    for place, sample in enumerate(whole):
        so_far = tuple(sample.tokens.tolist()[:15])
        rest = replace(
            first,
            prompt=replace(first.prompt, tokens=so_far),
            sampling=replace(sampling, max_new_tokens=14, min_new_tokens=14),
            position=10,
        )
        again = generated(engine, [rest])[3].samples[place]
        assert again.tokens.tolist() == sample.tokens.tolist()
        other = generated(engine, [replace(rest, position=0)])[3].samples[place]
        assert other.tokens.tolist() != sample.tokens.tolist()


def test_the_quantile_of_a_uniform_number_by_hand() -> None:
    logits = logits_of(0.2, 0.5, 0.3).expand(5, 3)
    tokens, logp = draw(logits, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71]), greedy=False)
    assert tokens.tolist() == [0, 0, 1, 1, 2]
    assert logp.exp().tolist() == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.3])


@pytest.mark.parametrize("token", [1, 500, 1000])
def test_rare_tokens_are_drawn_as_rarely_as_they_are(token: int) -> None:
    rare = math.exp(-20.0)  # 2e-9 each, beside a token of 1: a float32 sum would not see them
    logits = torch.tensor([[0.0] + [-20.0] * 1000])
    uniform = (1.0 + (token - 0.5) * rare) / (1.0 + 1000 * rare)
    assert draw(logits, torch.tensor([uniform], dtype=torch.float64), greedy=False)[0] == token


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, JUST_BELOW_ONE])
@pytest.mark.parametrize("width", [3, 1000, 150_000])
def test_a_token_without_probability_is_never_drawn(uniform: float, width: int) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, width)
    logits[:, ::2] = -INF  # the first one too
    logits[:, width - width // 3 :] = -INF  # and a long tail
    tokens, logp = draw(logits, torch.tensor([uniform], dtype=torch.float64), greedy=False)
    assert torch.isfinite(logits[0, tokens[0]])
    assert torch.isfinite(logp).all()


@pytest.mark.parametrize("uniform", [0.0, JUST_BELOW_ONE])
def test_underflow_is_no_probability(uniform: float) -> None:
    logits = torch.tensor([[-800.0, 0.0, -800.0, 0.0, -800.0]])  # e^-800 is 0
    tokens, logp = draw(logits, torch.tensor([uniform], dtype=torch.float64), greedy=False)
    assert tokens.item() == (1 if uniform == 0.0 else 3)
    assert logp.item() == pytest.approx(math.log(0.5))


def test_greedy_is_the_largest_whatever_the_uniform_number() -> None:
    tokens, logp = draw(logits_of(0.2, 0.5, 0.3), torch.tensor([0.99]), greedy=True)
    assert tokens.tolist() == [1]
    assert logp.exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4), (1.0, 4)],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    logits = logits_of(0.1, 0.4, 0.2, 0.3)  # by size: 0.4, 0.7, 0.9, 1.0
    processed = processed_logits(logits, Sampling(top_p=top_p))
    largest = logits.topk(kept).indices[0].tolist()
    assert torch.isfinite(processed)[0].nonzero().flatten().tolist() == sorted(largest)


def test_top_p_renormalises() -> None:
    processed = processed_logits(logits_of(0.1, 0.4, 0.2, 0.3), Sampling(top_p=0.6))
    _, logp = draw(processed, torch.tensor([0.0]), greedy=False)
    assert logp.exp().item() == pytest.approx(4 / 7)


def test_temperature_comes_before_the_nucleus() -> None:
    # p^(1/2) of 0.64, 0.32, 0.04 is 0.8, 0.566, 0.2 over 1.566: 0.51, 0.36, 0.13
    processed = processed_logits(logits_of(0.64, 0.32, 0.04), Sampling(2.0, top_p=0.6))
    assert torch.isfinite(processed).tolist() == [[True, True, False]]
    assert processed.softmax(-1)[0, 0].item() == pytest.approx(0.8 / (0.8 + math.sqrt(0.32)))


def test_temperature_is_a_division_of_logits() -> None:
    processed = processed_logits(torch.tensor([[1.0, 3.0]]), Sampling(0.5))
    assert processed.tolist() == [[2.0, 6.0]]
    assert processed_logits(torch.tensor([[1.0, 3.0]]), Sampling(0.0)).tolist() == [[1.0, 3.0]]


def test_forbidden_tokens_leave_before_the_nucleus() -> None:
    logits = logits_of(0.1, 0.4, 0.2, 0.3).repeat(2, 1)
    early = torch.tensor([True, False])
    processed = processed_logits(logits, Sampling(top_p=0.5), early, [1])
    assert torch.isfinite(processed).tolist() == [
        [False, False, False, True],  # 0.3 of 0.6
        [False, True, False, True],
    ]


def test_half_precision_logits_are_drawn_in_full_precision() -> None:
    processed = processed_logits(torch.zeros(1, 3, dtype=torch.bfloat16), Sampling(0.7))
    assert processed.dtype == torch.float32


def test_uniform_numbers_are_reproducible_uniform_and_separate() -> None:
    one = uniforms(1, 2, 3, 2000)
    assert (one == uniforms(1, 2, 3, 2000)).all()
    assert (one[:10] == uniforms(1, 2, 3, 10)).all()  # a prefix, whatever the limit
    assert one.min() >= 0.0 and one.max() < 1.0
    assert kstest(one, "uniform").pvalue > 1e-3
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)):
        assert not np.isin(uniforms(*other, 2000), one).any()
