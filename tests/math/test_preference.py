"""Preference losses: worked numbers, slopes, rankings against a loop."""

import math

import pytest
import torch

from polopt.math.preference import (
    dpo_gradient_weight,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    preference_logits,
    ranking_loss,
)


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


H = preference_logits(vector(-10), vector(-12), vector(-11), vector(-11.5))  # 1 - (-.5) = 1.5


def test_dpo_by_hand():
    assert H.tolist() == [1.5]
    # -log σ(.15)
    assert dpo_loss(H, beta=0.1).item() == pytest.approx(0.620957, abs=1e-6)
    # .9·(-log σ(.15)) + .1·(-log σ(-.15))
    smoothed = dpo_loss(H, beta=0.1, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(0.635957, abs=1e-6)
    assert ipo_loss(H, beta=0.1).item() == pytest.approx(12.25)  # (1.5 - 5)²
    assert implicit_reward(vector(-10), vector(-11), 0.1).item() == pytest.approx(0.1)


def test_the_gradient_weight_is_the_slope():
    h = vector(-3, 0, 2).requires_grad_()
    (slope,) = torch.autograd.grad(dpo_loss(h, beta=0.3).sum(), h)
    assert torch.allclose(-slope, dpo_gradient_weight(h.detach(), beta=0.3))


def test_extreme_logits_stay_finite():
    h = vector(-1e4, 1e4).requires_grad_()
    loss = dpo_loss(h, beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4, 0.0])
    assert h.grad.isfinite().all()


def test_a_pair_by_hand():
    # -log σ(2 - 1), and -log σ(2 - 1 - .5)
    group = torch.tensor([0, 0])
    assert ranking_loss(vector(2, 1), vector(0, 1), group)[1].item() == pytest.approx(
        0.313262, abs=1e-6
    )
    margin = ranking_loss(vector(2, 1), vector(0, 1), group, 0.5)[1]
    assert margin.item() == pytest.approx(0.474077, abs=1e-6)


def test_rankings_against_a_loop():
    gen = torch.Generator().manual_seed(0)
    scores = torch.randn(12, generator=gen, dtype=torch.float64)
    ranks = torch.randint(0, 3, (12,), generator=gen).double()
    group = torch.tensor([3, 1, 1, 3, 3, 0, 1, 0, 3, 7, 1, 0])
    per_prompt, loss = ranking_loss(scores, ranks, group)
    expected = []
    for g in (0, 1, 3, 7):
        rows = [i for i in range(12) if group[i] == g]
        terms = [
            math.log1p(math.exp(-(float(scores[i]) - float(scores[j]))))
            for i in rows
            for j in rows
            if ranks[i] < ranks[j]
        ]
        expected.append(sum(terms) / len(terms) if terms else math.nan)
    assert per_prompt.tolist() == pytest.approx(expected, nan_ok=True)
    usable = [x for x in expected if not math.isnan(x)]
    assert loss.item() == pytest.approx(sum(usable) / len(usable))


def test_only_ties_give_no_loss_and_no_gradient():
    scores = vector(1, 2, 3).requires_grad_()
    per_prompt, loss = ranking_loss(scores, torch.zeros(3).double(), torch.tensor([0, 0, 1]))
    loss.backward()
    assert per_prompt.isnan().all()
    assert loss.item() == 0.0
    assert scores.grad.tolist() == [0.0, 0.0, 0.0]
