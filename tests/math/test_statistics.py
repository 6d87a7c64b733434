"""Drift between policies."""

import math

import pytest
import torch

from polopt.math.statistics import drift

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
