"""Teacher forcing of two models, beside the plain forward passes of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polopt.diagnose.xray import scoring
from polopt.diagnose.xray.scoring import Compared, Drawn, compared
from polopt.models import LanguageModel
from polopt.roles.policies import parts, proven
from polopt.types import Sample
from random_models import STOP, VOCABULARY, builtin_model, peaked

LENGTHS = ((3, 7), (5, 1), (3, 12), (1, 4))  # tokens of prompts and answers


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, LanguageModel]:
    models = builtin_model(seed=1), builtin_model(seed=2)
    for one in models:
        peaked(one.model, 2.0)
    return models


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    draw = np.random.default_rng(0)
    found = list[Sample]()
    for prompt, answer in LENGTHS:
        tokens = draw.integers(3, VOCABULARY, prompt + answer)
        mask = np.arange(prompt + answer) >= prompt
        found.append(Sample(tokens, mask, np.zeros(len(tokens), np.float32), prompt))
    return found


@torch.no_grad()
def plain(model: LanguageModel, sample: Sample, temperature: float = 1.0) -> torch.Tensor:
    """log π [T, V] of the answer, in float64 from the logits on."""
    logits = model.model(input_ids=torch.tensor(sample.tokens)[None]).logits[0].double()
    return torch.log_softmax(logits[sample.prompt_length - 1 : -1] / temperature, dim=-1)


def check(found: list[Compared], pair, samples: list[Sample], temperature: float = 1.0) -> None:
    assert len(found) == len(samples)
    for one, sample in zip(found, samples, strict=True):
        p, q = (plain(model, sample, temperature) for model in pair)
        y = torch.tensor(sample.tokens[sample.prompt_length :])
        at = torch.arange(len(y))
        assert one.log_before == pytest.approx(p[at, y].numpy(), abs=1e-4)
        assert one.log_after == pytest.approx(q[at, y].numpy(), abs=1e-4)
        assert one.kl == pytest.approx((q.exp() * (q - p)).sum(-1).numpy(), abs=1e-4)
        assert one.entropy_after == pytest.approx(-(q.exp() * q).sum(-1).numpy(), abs=1e-4)
        assert one.rank_before.tolist() == (1 + (p > p[at, y][:, None]).sum(-1)).tolist()
        assert one.top_after.tolist() == q.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_as_plain_passes_have_it(pair, samples: list[Sample], temperature: float) -> None:
    check(compared(*pair, samples, Drawn(temperature)), pair, samples, temperature)


def test_a_few_logits_at_a_time_change_nothing(pair, samples, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "at_once", lambda *_: 3)
    monkeypatch.setattr(scoring, "TOKENS", 16)
    seen = list[tuple[int, int]]()
    check(compared(*pair, samples, Drawn(), lambda *told: seen.append(told)), pair, samples)
    assert len(seen) > 1 and seen == sorted(seen), "passes"
    assert seen[-1] == (len(samples), len(samples)), "answers"


def test_a_model_whose_head_is_more_than_a_matrix(pair, samples, monkeypatch) -> None:
    """Its own logits are taken, a few columns of a row at a time."""
    monkeypatch.setattr(scoring, "at_once", lambda *_: 3)
    headless = proven.Proven(None, None)
    for module in (scoring, parts):
        monkeypatch.setattr(
            module,
            "proven",
            lambda model: headless if model is pair[0].model else proven.proven(model),
        )
    check(compared(*pair, samples, Drawn()), pair, samples)


def test_a_copy_is_exactly_the_same(pair, samples: list[Sample]) -> None:
    for one in compared(pair[0], pair[0], samples, Drawn()):
        assert one.kl.tolist() == [0.0] * len(one.kl)
        assert one.log_before.tolist() == one.log_after.tolist()
        assert one.rank_before.tolist() == one.rank_after.tolist()


def test_only_what_the_policy_wrote_counts(pair, samples: list[Sample]) -> None:
    whole = samples[2]
    mask = whole.mask.copy()
    mask[5:8] = False  # a turn of the user
    part = Sample(whole.tokens, mask, whole.logp_rollout, whole.prompt_length)
    (one,), (other,) = (compared(*pair, [sample], Drawn()) for sample in (whole, part))
    assert other.kl == pytest.approx(one.kl[mask[whole.prompt_length :]])


def test_before_its_earliest_end_an_answer_cannot_end(pair, samples: list[Sample]) -> None:
    drawn = Drawn(min_new_tokens=2)
    (free,), (held,) = (compared(*pair, samples[:1], d) for d in (Drawn(), drawn))
    p = plain(pair[0], samples[0])
    without = p[:2].clone()
    without[:, STOP] = -torch.inf
    y = torch.tensor(samples[0].tokens[3:5])
    wanted = torch.log_softmax(without, -1).gather(-1, y[:, None])[:, 0]
    assert held.log_before[:2] == pytest.approx(wanted.numpy(), abs=1e-4)
    assert held.log_before[2:] == pytest.approx(free.log_before[2:])
    assert np.isfinite(held.kl).all()
