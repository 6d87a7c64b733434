"""Drift between policies and what training changed."""

import math

import pytest
import torch

from polopt.math.statistics import drift, exploration_probability, token_shift

NAN = float("nan")


def test_drift_by_hand():
    # ρ = 2 and 1/4, log ρ = log 2 and -2 log 2: mean 9/8, ESS (9/4)²/(2·65/16) = 81/130
    # k1 = -mean(log ρ) = ½ log 2, k3 = mean(ρ - 1 - log ρ) = 1/8 + ½ log 2, m2 = (1 + 4)/2·log² 2
    logp = torch.tensor([[math.log(2), -2 * math.log(2), NAN]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    got = drift(logp - 1.0, torch.full((1, 3), -1.0, dtype=torch.float64), mask)
    assert got.mean_ratio.item() == pytest.approx(9 / 8)
    assert got.ess_fraction.item() == pytest.approx(81 / 130)
    assert got.k1.item() == pytest.approx(0.5 * math.log(2))
    assert got.k3.item() == pytest.approx(1 / 8 + 0.5 * math.log(2))
    assert got.m2.item() == pytest.approx(2.5 * math.log(2) ** 2)


def test_effective_sample_size_of_rejected_tokens():
    # weights 0, .8, 0 would be 1/3; three equal ones are everything
    same = torch.zeros(1, 3)
    assert drift(same, same, torch.ones(1, 3).bool()).ess_fraction.item() == 1.0


def test_drift_of_nothing_is_zero():
    nan = torch.full((2, 2), NAN)
    got = drift(nan, nan, torch.zeros(2, 2).bool())
    assert [x.item() for x in (got.mean_ratio, got.ess_fraction, got.k1, got.k3, got.m2)] == [0] * 5


def test_the_largest_shifts_first_and_only_inside_the_mask():
    base = torch.tensor([[-1.0, -1.0, NAN], [-1.0, -1.0, -1.0]], dtype=torch.float64)
    trained = base + torch.tensor([[0.1, -0.5, 9.0], [0.5, 0.0, 0.0]])
    mask = ~torch.isnan(base)
    got = token_shift(base, trained, mask, top=4)
    assert got.top.tolist() == [1, 3, 0, 4]  # equals in order of place
    assert got.delta_logp[0].tolist() == pytest.approx([0.1, -0.5, 0.0])
    assert got.ratio[0].tolist() == pytest.approx([math.exp(0.1), math.exp(-0.5), 0.0])
    assert got.delta_p[0, 1].item() == pytest.approx(math.exp(-1.5) - math.exp(-1.0))
    assert got.mean_abs.item() == pytest.approx(1.1 / 5)
    assert token_shift(base, trained, mask, top=99).top.numel() == 5


def test_exploration_keeps_small_probabilities():
    p = torch.tensor([0.99, 1 - 1e-12, 1.0, 0.0], dtype=torch.float64)
    got = exploration_probability(p, 16).tolist()
    assert got == pytest.approx([1 - 0.99**16, 1.6e-11, 0.0, 1.0], rel=1e-4)
