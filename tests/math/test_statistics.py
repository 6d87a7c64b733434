"""Drift between policies."""

import math

import pytest
import torch

from polopt.math.statistics import drift, drift_by_bucket, largest_ratios

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


def test_drift_by_bucket_by_hand():
    # bucket 0: ρ = 2 and 1/4 as above; bucket 2: ρ = 1; 1 is empty; beyond the last: ρ = 3, 1
    logs = [[math.log(2), -2 * math.log(2), 0.0, NAN], [math.log(3), 0.0, NAN, NAN]]
    ratios = torch.tensor(logs, dtype=torch.float64)
    mask = ~ratios.isnan()
    bucket = torch.tensor([[0, 0, 2, 0], [3, 7, 1, 1]])
    got = drift_by_bucket(ratios - 1.0, torch.full_like(ratios, -1.0), mask, bucket, 4)
    assert got.tokens.tolist() == [2, 0, 1, 2]
    assert got.ess_fraction.tolist() == pytest.approx([81 / 130, 0, 1, 16 / 20])
    k3 = [1 / 8 + 0.5 * math.log(2), 0, 0, 1 - 0.5 * math.log(3)]
    assert got.k3.tolist() == pytest.approx(k3)


def test_buckets_together_are_the_whole():
    torch.manual_seed(0)
    logp, behaviour = torch.randn(2, 5, 7) / 4
    mask, bucket = torch.rand(5, 7) < 0.7, torch.randint(0, 3, (5, 7))
    got, whole = (
        drift_by_bucket(logp, behaviour, mask, bucket, 3),
        drift(logp, behaviour, mask),
    )
    assert (got.k3 * got.tokens).sum().item() / mask.sum().item() == pytest.approx(whole.k3.item())


def test_the_largest_ratios_by_hand():
    # of 200 tokens two in a hundred may be above: the third largest, log ρ = 1.97
    logs = torch.arange(200.0) / 100
    rows = torch.cat([logs, torch.full((56,), NAN)])[torch.randperm(256)].view(8, 32)
    mask = ~rows.isnan()
    assert largest_ratios(rows, 0 * rows, mask).item() == pytest.approx(math.exp(1.97))
    assert largest_ratios(rows, 0 * rows, mask, one_in=2).item() == pytest.approx(math.exp(0.99))
    few = torch.tensor([[1.0, NAN, -1.0]])
    assert largest_ratios(few, 0 * few, ~few.isnan()).item() == pytest.approx(math.e)
    for shape in ((2, 3), (0, 3)):
        nothing = torch.full(shape, NAN)
        assert largest_ratios(nothing, nothing, torch.zeros(shape).bool()).item() == 1
