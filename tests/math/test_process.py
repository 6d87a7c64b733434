"""PRIME: the two formulas against loops, and what they have in common."""

import math

import pytest
import torch

from polopt.math.process import (
    prime_advantage,
    prime_batch_norm,
    prime_cross_entropy,
    prime_reference_advantage,
)

NAN = float("nan")
Q = torch.tensor(
    [[0.1, -0.2, 0.3], [0.05, 0.1, NAN], [-0.1, 0.2, 0.4], [7.0, NAN, NAN], [NAN] * 3],
    dtype=torch.float64,
)
MASK = ~torch.isnan(Q)
GROUP = torch.tensor([0, 0, 0, 4, 0])  # row 3 is alone, row 4 is empty
OUTCOME = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)


def twin(reference):
    out = [[0.0] * 3 for _ in range(5)]
    rows = [0, 1, 2]
    n = {i: int(MASK[i].sum()) for i in rows}
    mean = {i: sum(float(Q[i, t]) for t in range(n[i])) / n[i] for i in rows}
    for i in rows:
        others = [j for j in rows if j != i]
        result = float(OUTCOME[i]) - sum(float(OUTCOME[j]) for j in others) / 2
        carry = 0.0
        for t in reversed(range(n[i])):
            if reference:
                r = float(Q[i, t]) * 3 / 2 - sum(mean.values()) / 2
                r += result if t == n[i] - 1 else 0.0
            else:
                r = float(Q[i, t]) - sum(mean[j] for j in others) / 2
            carry = r + 0.9 * carry
            out[i][t] = carry + (0.0 if reference else result)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "reference"), [(prime_advantage, False), (prime_reference_advantage, True)]
)
def test_against_a_loop(function, reference):
    got = function(Q, OUTCOME, MASK, GROUP, gamma=0.9)
    assert torch.allclose(got, twin(reference))


def test_the_variants_differ_by_the_own_mean():
    # code - paper = (q_t - q̄)/(K-1) per token, at γ = 1 summed to the end
    paper = prime_advantage(Q, OUTCOME, MASK, GROUP, gamma=1.0)
    code = prime_reference_advantage(Q, OUTCOME, MASK, GROUP, gamma=1.0)
    own = (torch.tensor([0.1, -0.2, 0.3]) - 0.2 / 3).double() / 2
    expected = own.flip(0).cumsum(0).flip(0)
    assert torch.allclose((code - paper)[0], expected)


def test_coefficients_weigh_the_two_streams():
    parts = [
        prime_advantage(
            Q, OUTCOME, MASK, GROUP, gamma=1.0, process_coefficient=a, outcome_coefficient=b
        )
        for a, b in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0))
    ]
    assert torch.allclose(2 * parts[0] + 3 * parts[1], parts[2])


def test_an_unscorable_outcome_leaves():
    outcome = OUTCOME.clone()
    outcome[2] = NAN
    got = prime_advantage(Q, outcome, MASK, GROUP, gamma=1.0)
    alone = prime_advantage(Q[:2], outcome[:2], MASK[:2], GROUP[:2], gamma=1.0)
    assert torch.allclose(got[:2], alone)
    assert got[2:].tolist() == [[0.0] * 3] * 3


def test_cross_entropy_by_hand():
    log_ratio = torch.tensor([[2.0, NAN], [NAN, NAN], [1.0, 1.0]], dtype=torch.float64)
    logits, loss = prime_cross_entropy(
        log_ratio, torch.tensor([1.0, 1.0, NAN]).double(), ~torch.isnan(log_ratio), beta=0.5
    )
    assert logits.tolist() == [1.0, 0.0, 1.0]
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.0)))  # the first row alone counts


def test_batch_norm_divides_by_the_largest_suffix_sum():
    q = torch.tensor([[1.0, 1.0, NAN], [-3.0, NAN, NAN]], dtype=torch.float64)
    got = prime_batch_norm(q, ~torch.isnan(q))
    assert got[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0.0], abs=1e-6)
    assert prime_batch_norm(torch.zeros(0, 3), torch.zeros(0, 3).bool()).shape == (0, 3)
