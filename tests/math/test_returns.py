"""One recursion for returns and GAE: hand-worked numbers, identities, a slow twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.math.returns import (
    discounted_sum,
    full_return,
    length_adaptive_lambda,
    next_valid,
    outcome,
    reward_to_go,
    step_gae,
    token_gae,
)

NAN = float("nan")


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def bits(*flags):
    return torch.tensor([flags], dtype=torch.bool)


def test_gae_by_hand():
    # r 0,0,1; V .5,.6,.7; γ=.99, λ=.95
    # δ₂ = 1 - .7 = .3;  δ₁ = .99·.7 - .6 = .093;  δ₀ = .99·.6 - .5 = .094
    # A₁ = .093 + .9405·.3 = .37515;  A₀ = .094 + .9405·.37515 = .446829
    advantages, targets = token_gae(row(0, 0, 1), row(0.5, 0.6, 0.7), bits(1, 1, 1), 0.99, 0.95)
    assert advantages[0].tolist() == pytest.approx([0.446829, 0.375150, 0.300000], abs=1e-6)
    assert targets[0].tolist() == pytest.approx([0.946829, 0.975150, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        (1.0, 1.0, [0.9, 0.8, 0.6]),  # return 1 less V
        (1.0, 0.95, [0.8315, 0.77, 0.6]),  # A₁ = .4-.2+.95·.6; A₀ = .2-.1+.95·.77
        (0.99, 0.95, [0.813062, 0.7603, 0.6]),
    ],
)
def test_gae_skips_tool_text(gamma, lam, expected):
    advantages, _ = token_gae(
        row(0, 0, NAN, NAN, 1), row(0.1, 0.2, 9, NAN, 0.4), bits(1, 1, 0, 0, 1), gamma, lam
    )
    valid = advantages[0][[0, 1, 4]].tolist()
    assert valid == pytest.approx(expected, abs=1e-6)
    assert advantages[0][2:4].tolist() == [0.0, 0.0]


def test_discounted_return_across_a_gap():
    gap = bits(1, 1, 0, 0, 1, 1)
    assert reward_to_go(row(0, 0, 0, 0, 0, 1), gap, 1.0).tolist() == [[1, 1, 0, 0, 1, 1]]
    gap = bits(1, 1, 0, 0, 1)
    assert reward_to_go(row(0, 0, 0, 0, 2), gap, 0.5).tolist() == [[0.5, 1, 0, 0, 2]]


def test_full_return_stands_on_every_token_and_counts_valid_ones():
    # 1 + .5·2 (the gap is no step of time) + .25·4 = 3
    got = full_return(row(1, NAN, 2, 4), bits(1, 0, 1, 1), 0.5)
    assert got.tolist() == [[3, 0, 3, 3]]
    assert outcome(row(1, NAN, 2, 4), bits(1, 0, 1, 1)).tolist() == [[7, 0, 7, 7]]


def test_terminated_truncated_and_both():
    # one step each, V=1, next V=2, r=.5, γ=.5: a running step bootstraps .5·2
    ends = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.bool)
    one = torch.ones(4, 2, dtype=torch.float64)
    advantages, targets = step_gae(
        0.5 * one,
        one,
        2.0 * one,
        torch.stack([ends[:, 0], torch.zeros(4).bool()], 1),
        torch.stack([ends[:, 1], torch.zeros(4).bool()], 1),
        0.5,
        1.0,
    )
    # last step: .5 + .5·2 - 1 = .5 in every row
    # first step, δ = .5: running .5 + .5·.5 = .75; terminated .5 - 1 = -.5; truncated .5; both -.5
    assert advantages[:, 1].tolist() == [0.5] * 4
    assert advantages[:, 0].tolist() == [0.75, -0.5, 0.5, -0.5]
    assert torch.equal(targets, advantages + 1.0)


def test_length_adaptive_lambda_is_clipped():
    got = length_adaptive_lambda(torch.tensor([0.0, 5.0, 20.0, 40.0]), 0.05)
    assert got.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5])


@st.composite
def rollouts(draw):
    b, t = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 10**6))
    gen = torch.Generator().manual_seed(seed)
    r, v = (torch.randn(b, t, generator=gen, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(b, t, generator=gen) < 0.7
    last = torch.randn(b, generator=gen, dtype=torch.float64)
    gamma, lam = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    return torch.where(mask, r, NAN), torch.where(mask, v, NAN), mask, last, gamma, lam


@settings(max_examples=50, deadline=None)
@given(rollouts())
def test_gae_against_a_loop(rollout):
    r, v, mask, last, gamma, lam = rollout
    advantages, targets = token_gae(r, v, mask, gamma, lam, last)
    for i in range(len(r)):
        columns = mask[i].nonzero()[:, 0].tolist()
        following, carry = float(last[i]), 0.0
        for t in reversed(columns):
            carry = float(r[i, t]) + gamma * following - float(v[i, t]) + gamma * lam * carry
            following = float(v[i, t])
            assert advantages[i, t].item() == pytest.approx(carry, abs=1e-9)
            assert targets[i, t].item() == pytest.approx(carry + float(v[i, t]), abs=1e-9)
    assert (advantages[~mask] == 0).all()
    assert (targets[~mask] == 0).all()


@settings(max_examples=50, deadline=None)
@given(rollouts())
def test_identities_of_gae(rollout):
    r, v, mask, last, gamma, _ = rollout
    inside = lambda x: torch.where(mask, x, 0.0)  # noqa: E731
    togo = reward_to_go(r, mask, gamma)

    following = next_valid(v, last, mask)
    td, _ = token_gae(r, v, mask, gamma, 0.0, last)
    assert torch.allclose(td, inside(r + gamma * following - v))

    remaining = (mask.sum(-1, keepdim=True) - mask.cumsum(-1) + 1).double()
    whole, _ = token_gae(r, v, mask, gamma, 1.0, last)
    assert torch.allclose(whole, inside(togo + gamma**remaining * last[:, None] - v))

    blind, _ = token_gae(r, torch.zeros_like(v), mask, gamma, 1.0)
    assert torch.allclose(blind, togo)


@settings(max_examples=50, deadline=None)
@given(rollouts(), st.integers(0, 5))
def test_inserting_masked_tokens_changes_no_valid_advantage(rollout, place):
    r, v, mask, last, gamma, lam = rollout
    before, _ = token_gae(r, v, mask, gamma, lam, last)
    at = min(place, r.shape[1])
    gap = torch.full((len(r), 2), NAN, dtype=torch.float64)
    widen = lambda x, fill: torch.cat([x[:, :at], fill, x[:, at:]], 1)  # noqa: E731
    after, _ = token_gae(
        widen(r, gap), widen(v, gap), widen(mask, torch.zeros(len(r), 2).bool()), gamma, lam, last
    )
    assert torch.allclose(torch.cat([after[:, :at], after[:, at + 2 :]], 1), before)


def test_lambda_may_differ_by_row():
    r, v, mask = torch.ones(2, 3).double(), torch.ones(2, 3).double(), torch.ones(2, 3).bool()
    both, _ = token_gae(r, v, mask, 0.9, torch.tensor([0.0, 1.0], dtype=torch.float64))
    for i, lam in enumerate((0.0, 1.0)):
        alone, _ = token_gae(r[:1], v[:1], mask[:1], 0.9, lam)
        assert torch.equal(both[i : i + 1], alone)


def test_nothing_is_read_outside_the_mask():
    x, decay = row(1, NAN, 2), row(0.5, NAN, 0.5)
    assert discounted_sum(x, decay, bits(1, 0, 1)).tolist() == [[2, 0, 2]]
    assert discounted_sum(x, decay, bits(0, 0, 0)).tolist() == [[0, 0, 0]]
