"""Off-policy weights and masks: hand-worked numbers, slow twins, hostile input."""

import math

import pytest
import torch

from polopt.diagnose.conformance.loss import CORRECTIONS
from polopt.math.corrections import (
    m2po_mask,
    opsm_mask,
    sequence_geometric_masked,
    sequence_masked,
    sequence_truncated,
    token_masked,
    token_truncated,
)

NAN = float("nan")


def weights(correct, u, **bounds):
    """Weights of one row at given ratios u; a last, masked cell holds NaN."""
    logp_old = torch.tensor([[*map(math.log, u), NAN]], dtype=torch.float64)
    mask = torch.tensor([[True] * len(u) + [False]])
    got = correct(logp_old, torch.where(mask, 0.0, logp_old), mask, **bounds)[0].tolist()
    assert got[-1] == 0.0
    return got[:-1]


def test_token_level_by_hand():
    # ratios .4, .8, 6 within .5 to 5
    assert weights(token_masked, [0.4, 0.8, 6.0], low=0.5, high=5.0) == pytest.approx([0, 0.8, 0])
    assert weights(token_truncated, [0.4, 0.8, 6.0], high=2.0) == pytest.approx([0.4, 0.8, 2])
    assert weights(token_truncated, [0.4, 0.8, 6.0], low=0.5, high=2.0) == pytest.approx(
        [0.5, 0.8, 2]
    )


def test_sequence_level_by_hand():
    # product 2·.5·3 = 3, geometric mean 3^(1/3) = 1.44
    assert weights(sequence_truncated, [2, 0.5, 3], high=2.0) == pytest.approx([2] * 3)
    assert weights(sequence_masked, [2, 0.5, 3], high=2.0) == [0.0] * 3
    assert weights(sequence_masked, [2, 0.5, 3], high=4.0) == pytest.approx([3] * 3)
    kept = weights(sequence_geometric_masked, [2, 0.5, 3], low=0.5, high=1.5)
    assert kept == pytest.approx([2, 0.5, 3])
    assert weights(sequence_geometric_masked, [2, 0.5, 3], low=0.5, high=1.4) == [0.0] * 3


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_on_policy_weights_are_one(name):
    assert weights(CORRECTIONS[name], [1.0, 1.0], low=0.5, high=2.0) == [1.0, 1.0]


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_one_stale_sequence_stays_finite_and_constant(name):
    logp_old = torch.tensor([[500.0, 500.0]], requires_grad=True)
    got = CORRECTIONS[name](logp_old, torch.zeros(1, 2), torch.ones(1, 2).bool(), high=1e30)
    assert got.isfinite().all()
    assert not got.requires_grad


def mean_of_rest(log_ratio, drifting, keep):
    rest = [float(x) ** 2 for x in log_ratio[drifting & keep]]
    return sum(rest) / len(rest) if rest else 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tau", [0.0, 0.01, 0.04, 10.0])
def test_m2po_drops_the_largest_until_the_mean_is_small(seed, tau):
    gen = torch.Generator().manual_seed(seed)
    log_ratio = 0.3 * torch.randn(3, 7, generator=gen, dtype=torch.float64)
    a = torch.randn(3, 7, generator=gen, dtype=torch.float64)
    mask = torch.rand(3, 7, generator=gen) < 0.8
    keep = m2po_mask(log_ratio, torch.zeros_like(a), a, mask, tau=tau)
    drifting = mask & (a * log_ratio > 0)
    # slow twin: sort, drop from the top while the mean is above τ
    ordered = sorted((float(log_ratio[i, t]) ** 2, i, t) for i, t in drifting.nonzero().tolist())
    while ordered and sum(x for x, _, _ in ordered) / len(ordered) > tau:
        ordered.pop()
    survivors = {(i, t) for _, i, t in ordered}
    expected = mask & ~drifting
    for i, t in survivors:
        expected[i, t] = True
    assert torch.equal(keep, expected)
    assert mean_of_rest(log_ratio, drifting, keep) <= tau


def test_m2po_of_an_empty_mask():
    nothing = torch.zeros(2, 3).bool()
    nan = torch.full((2, 3), NAN)
    assert torch.equal(m2po_mask(nan, nan, nan, nothing, tau=0.04), nothing)


def test_opsm_drops_bad_rows_that_drifted():
    # (A, mean logp_old - logp): (+, 2) keep, (-, .5) keep, (-, 2) drop, at δ = 1
    drift = torch.tensor([2.0, 0.5, 2.0])
    logp = torch.stack([-drift, torch.full((3,), 1e4)], 1)  # the second column is padding
    mask = torch.tensor([[True, False]] * 3)
    keep = opsm_mask(logp, torch.zeros(3, 2), torch.tensor([1.0, -1.0, -1.0]), mask, delta=1.0)
    assert keep.tolist() == [True, True, False]
