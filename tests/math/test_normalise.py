"""What advantages are divided by: hand-worked numbers and groups without variance."""

import math

import pytest
import torch

from polopt.diagnose.conformance.formulas import var_clamp
from polopt.math.baselines import centred, group_mean
from polopt.math.normalise import (
    batch_std,
    group_mean_divide,
    group_std,
    std_plus,
    var_plus,
    whiten,
)

NAN = float("nan")


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def one_group(rewards):
    return torch.zeros(len(rewards), dtype=torch.int64), torch.ones(len(rewards)).bool()


def scaled(by, rewards, group, valid, **numbers):
    """Rewards less the mean of their group, over what ``by`` divides by."""
    advantages = centred(rewards, group_mean(rewards, group, valid), valid)
    return by(advantages[:, None], rewards, group, valid, **numbers)[:, 0]


def test_group_std_by_hand():
    # 1,0,0,0: mean 1/4, squares 9/16 + 3/16 = 3/4; unbiased σ² = 1/4, population σ² = 3/16
    r = vector(1, 0, 0, 0)
    assert scaled(group_std, r, *one_group(r), ddof=1, eps=0.0).tolist() == pytest.approx(
        [1.5] + [-0.5] * 3
    )
    population = [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]
    assert scaled(group_std, r, *one_group(r), ddof=0, eps=0.0).tolist() == pytest.approx(
        population
    )
    # TRL's epsilon, .0001 beside σ = .5
    got = scaled(group_std, r, *one_group(r), ddof=1, eps=1e-4).tolist()
    assert got == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3)


def test_two_of_four_correct():
    # mean 1/2, unbiased σ² = 1/3
    r = vector(1, 1, 0, 0)
    expected = [math.sqrt(3) / 2] * 2 + [-math.sqrt(3) / 2] * 2
    assert scaled(group_std, r, *one_group(r), ddof=1, eps=0.0).tolist() == pytest.approx(expected)


def test_a_pair_is_always_plus_minus_root_half():
    for gap in (1e-3, 1.0, 1e3):
        r = vector(gap, 0)
        got = scaled(group_std, r, *one_group(r), ddof=1, eps=0.0)
        assert got.tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])


def test_batch_std_uses_every_reward_of_the_batch():
    # groups (1, 0) and (1, 1): means 1/2 and 1; batch mean 3/4, σ² = (3·1/16 + 9/16)/3 = 1/4
    r, group = vector(1, 0, 1, 1), torch.tensor([0, 0, 1, 1])
    got = scaled(batch_std, r, group, torch.ones(4).bool(), ddof=1, eps=0.0)
    assert got.tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0])


def test_batch_std_counts_singletons_but_not_the_unscorable():
    # scorable rewards 1, 0, 3: mean 4/3, σ² = (1/9 + 16/9 + 25/9)/2 = 7/3
    r, group = vector(1, 0, 3, NAN), torch.tensor([0, 0, 1, 1])
    valid = torch.tensor([True, True, True, False])
    got = scaled(batch_std, r, group, valid, ddof=1, eps=0.0)
    half = 0.5 / math.sqrt(7 / 3)
    assert got.tolist() == pytest.approx([half, -half, 0.0, 0.0])


def test_group_mean_divide_by_hand():
    # MaxRL: one of four correct, mean 1/4: (3/4)/(1/4) = 3
    r = vector(1, 0, 0, 0)
    assert scaled(group_mean_divide, r, *one_group(r), eps=0.0).tolist() == pytest.approx(
        [3, -1, -1, -1]
    )
    for degenerate in (vector(0, 0), vector(-1, -3)):  # nothing correct: no signal
        got = scaled(group_mean_divide, degenerate, *one_group(degenerate), eps=0.0)
        assert got.tolist() == [0, 0]


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.9, 0.97])
@pytest.mark.parametrize("n", [1, 2, 8, 15, 16, 32])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-6])
def test_equal_rewards_are_exactly_zero_whatever_epsilon(reward, n, eps):
    r = torch.cat([torch.full((n,), reward), torch.tensor([0.0, 1.0])])
    group = torch.tensor([0] * n + [1, 1])
    valid = torch.ones(n + 2).bool()
    for normalise in (group_std, batch_std):
        for ddof in (0, 1):
            got = scaled(normalise, r, group, valid, ddof=ddof, eps=eps)
            assert got[:n].tolist() == [0.0] * n
            assert got.isfinite().all()
    assert scaled(group_mean_divide, r, group, valid, eps=eps)[:n].tolist() == [0.0] * n


def test_nan_rewards_do_not_travel():
    r, group = vector(NAN, 1, 0, NAN), torch.tensor([0, 0, 0, 1])
    valid = ~torch.isnan(r)
    for normalise in (group_std, batch_std, group_mean_divide):
        got = scaled(normalise, r, group, valid)
        assert got.isfinite().all()
        assert got[[0, 3]].tolist() == [0.0, 0.0]
        assert torch.allclose(got[1:3], scaled(normalise, r[1:3], group[1:3], valid[1:3]))


def test_whitening_of_one_two_three_four():
    # population variance 1.25, unbiased 5/3: the two libraries' ±1.3416 and ±1.1619
    x, mask = vector(1, 2, 3, 4), torch.ones(4).bool()
    biased = whiten(x, mask, ddof=0, eps=1e-8, denominator=var_clamp)
    assert biased.tolist() == pytest.approx([-1.3416, -0.4472, 0.4472, 1.3416], abs=1e-4)
    unbiased = whiten(x, mask, ddof=1, eps=1e-8, denominator=var_plus)
    assert unbiased.tolist() == pytest.approx([-1.1619, -0.3873, 0.3873, 1.1619], abs=1e-4)


def test_whitening_reads_the_mask_alone():
    x = torch.tensor([[NAN, 2.0], [3.0, float("inf")]])
    mask = torch.tensor([[False, True], [True, False]])
    got = whiten(x, mask, ddof=1, eps=1e-8)
    alone = whiten(torch.tensor([2.0, 3.0]), torch.ones(2).bool(), ddof=1, eps=1e-8)
    assert [got[0, 1].item(), got[1, 0].item()] == pytest.approx(alone.tolist())
    assert [got[0, 0].item(), got[1, 1].item()] == [0.0, 0.0]


def test_whitened_gae_of_the_worked_example():
    x = vector(0.446829, 0.375150, 0.300000)
    got = whiten(x, torch.ones(3).bool(), ddof=1, eps=1e-8)
    assert got.tolist() == pytest.approx([0.992025, 0.015760, -1.007786], abs=1e-5)


@pytest.mark.parametrize("denominator", [std_plus, var_plus, var_clamp])
@pytest.mark.parametrize("x", [[0.1] * 10, [7.3], []])
def test_whitening_without_variance_is_zero(denominator, x):
    x = torch.tensor(x)
    got = whiten(x, torch.ones(len(x)).bool(), ddof=1, eps=0.0, denominator=denominator)
    assert got.tolist() == [0.0] * len(x)


def test_whitening_may_keep_the_mean():
    x, mask = vector(1, 2, 3, 6), torch.tensor([True, True, True, False])
    kept = whiten(x, mask, ddof=1, eps=0.0, shift_mean=False)
    assert kept.tolist() == pytest.approx([1.0, 2.0, 3.0, 0.0])  # σ = 1 already


@pytest.mark.parametrize("beside", [5.0, -5.0, float("nan")])
def test_equal_cells_are_whitened_to_0_whatever_stands_outside_the_mask(beside):
    """The mean of eleven float32 numbers 0.1 is not 0.1: rounding would be blown up to size 1."""
    x = torch.full((1, 12), 0.1)
    x[0, -1] = beside
    mask = torch.arange(12)[None, :] < 11
    assert x[mask].sum() / 11 != x[0, 0]
    assert whiten(x, mask, eps=0.0).tolist() == [[0.0] * 12]
