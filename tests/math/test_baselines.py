"""Baselines: hand-worked numbers, what is exact, and who has no say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.math.baselines import (
    centred,
    ema_update,
    group_mean,
    has_peers,
    leave_one_out,
    length_weighted,
    running_mean_update,
)

NAN = float("nan")


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def advantage(baseline, rewards, group=None, valid=None):
    group = torch.zeros(len(rewards), dtype=torch.int64) if group is None else torch.tensor(group)
    valid = torch.ones(len(rewards)).bool() if valid is None else torch.tensor(valid)
    return centred(rewards, baseline(rewards, group, valid), valid)


def test_by_hand():
    # r = 1,0,0,0: mean 1/4; the others' mean is 0 for the first and 1/3 for the rest
    r = vector(1, 0, 0, 0)
    assert advantage(group_mean, r).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert advantage(leave_one_out, r).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    r = vector(1, 1, 0, 0)
    assert advantage(group_mean, r).tolist() == [0.5, 0.5, -0.5, -0.5]
    assert advantage(leave_one_out, r).tolist() == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])


def test_length_weighted_by_hand():
    # lengths 2,1,3 and r = 1,0,0: b = 2/6
    group, valid = torch.zeros(3, dtype=torch.int64), torch.ones(3).bool()
    b = length_weighted(vector(1, 0, 0), vector(2, 1, 3), group, valid)
    assert (vector(1, 0, 0) - b).tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    st.integers(0, 2**12),
)
def test_rloo_is_dr_grpo_rescaled(rewards, pattern):
    group = torch.tensor([(pattern >> i) & 1 for i in range(len(rewards))])
    r, valid = vector(*rewards), torch.ones(len(rewards)).bool()
    size = (group[:, None] == group).sum(-1)
    peers = has_peers(group, valid)
    left = centred(r, leave_one_out(r, group, valid), peers)
    right = centred(r, group_mean(r, group, valid), peers) * size / (size - 1).clamp(min=1)
    assert torch.allclose(left, right, atol=1e-12)


def test_leave_one_out_against_a_loop():
    gen = torch.Generator().manual_seed(3)
    r = torch.randn(40, generator=gen, dtype=torch.float64)
    group = torch.randint(0, 6, (40,), generator=gen)
    valid = torch.rand(40, generator=gen) < 0.8
    got = leave_one_out(r, group, valid)
    for i in range(40):
        mates = [float(r[j]) for j in range(40) if group[j] == group[i] and valid[j] and j != i]
        if valid[i] and mates:
            assert got[i].item() == pytest.approx(sum(mates) / len(mates), abs=1e-12)


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.9, 0.97, 1e-9, -3.3])
@pytest.mark.parametrize("n", [2, 3, 8, 15, 16, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(reward, n, dtype):
    # the mean of n times 0.1 is not 0.1 in floating point; divided by a tiny std it would explode
    r = torch.full((n,), reward, dtype=dtype)
    weights = torch.arange(1, n + 1).to(dtype)
    group, valid = torch.zeros(n, dtype=torch.int64), torch.ones(n).bool()
    for baseline in (
        group_mean(r, group, valid),
        leave_one_out(r, group, valid),
        length_weighted(r, weights, group, valid),
    ):
        assert torch.equal(r - baseline, torch.zeros_like(r))


def test_unscorable_rows_are_in_no_statistic():
    # without the NaN row the group is 1, 0; row 3 is then alone in its group
    r = vector(1, NAN, 0, 5)
    got = advantage(group_mean, r, [0, 0, 0, 1], [True, False, True, True])
    assert got.tolist() == [0.5, 0, -0.5, 0]
    peers = has_peers(torch.tensor([0, 0, 0, 1]), torch.tensor([True, False, True, True]))
    assert peers.tolist() == [True, False, True, False]


def test_a_group_of_one_scorable_row_is_a_group_of_one():
    peers = has_peers(torch.tensor([0, 0]), torch.tensor([True, False]))
    assert peers.tolist() == [False, False]


def test_close_rewards_keep_their_difference():
    r = torch.tensor([1.0, 1.00001])
    got = advantage(group_mean, r)
    assert got[1].item() == pytest.approx(5e-6, rel=0.02)
    assert got.sum().item() == pytest.approx(0, abs=1e-7)


def test_moving_averages_are_used_before_they_are_updated():
    b = ema_update(0.0, vector(1, 0), 0.9)  # .1·.5
    assert b == pytest.approx(0.05)
    assert ema_update(b, vector(1, NAN), 0.9) == pytest.approx(0.9 * 0.05 + 0.1)
    assert ema_update(b, vector(NAN), 0.9) == b
    mean, seen = running_mean_update(0.0, 0, vector(1, 0))
    mean, seen = running_mean_update(mean, seen, vector(1, 1, NAN))
    assert (mean, seen) == (0.75, 4)
    assert running_mean_update(mean, seen, vector(NAN)) == (0.75, 4)
