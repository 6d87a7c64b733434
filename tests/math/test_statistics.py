"""Drift between policies."""

import math

import pytest
import torch

from polopt.math.statistics import drift

NAN = float("nan")


def test_drift_by_hand():
    # ρ = 2 and 1/2: mean 1.25, ESS (2.5)²/(2·4.25), k1 = -mean(log 2, -log 2) = 0
    logp = torch.tensor([[math.log(2), -math.log(2), NAN]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    got = drift(logp, torch.zeros(1, 3, dtype=torch.float64), mask)
    assert got.mean_ratio.item() == pytest.approx(1.25)
    assert got.ess_fraction.item() == pytest.approx(6.25 / 8.5)
    assert got.k1.item() == pytest.approx(0.0)
    assert got.k3.item() == pytest.approx(0.25)  # mean(ρ - 1)
    assert got.m2.item() == pytest.approx(math.log(2) ** 2)


def test_effective_sample_size_of_rejected_tokens():
    # weights 0, .8, 0 would be 1/3; three equal ones are everything
    same = torch.zeros(1, 3)
    assert drift(same, same, torch.ones(1, 3).bool()).ess_fraction.item() == 1.0


def test_drift_of_nothing_is_zero():
    nan = torch.full((2, 2), NAN)
    got = drift(nan, nan, torch.zeros(2, 2).bool())
    assert [x.item() for x in (got.mean_ratio, got.ess_fraction, got.k1, got.k3, got.m2)] == [0] * 5
