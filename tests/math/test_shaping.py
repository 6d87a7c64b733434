"""Token rewards: where they stand and what they add up to."""

from functools import partial

import pytest
import torch

from polopt.math.divergence import k1, k3
from polopt.math.shaping import (
    kl_penalty,
    overlong_penalty,
    overlong_reward,
    spread_discounted,
    spread_normalised,
    spread_uniform,
    terminal_reward,
)

NAN = float("nan")
SCORES = torch.tensor([12.0, -2.0, NAN], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()


def test_the_score_stands_at_the_last_valid_token():
    got = terminal_reward(SCORES, MASK, (-10.0, 10.0))
    assert got.tolist() == [[0, 0, 0, 10], [0, 0, -2, 0], [0] * 4]


def test_the_penalty_is_charged_where_the_policy_left_the_reference():
    old = torch.tensor([[0.0, -1.0, NAN]], dtype=torch.float64)
    reference = torch.tensor([[0.5, -1.0, NAN]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    assert kl_penalty(old, reference, mask, 0.1, k1).tolist()[0] == pytest.approx([0.05, 0, 0])
    # k3 at d = -.5 is .148721
    got = kl_penalty(old, reference, mask, 0.1, k3).tolist()[0]
    assert got == pytest.approx([-0.0148721, 0, 0], abs=1e-7)


def test_overlong_by_hand():
    lengths = torch.tensor([50.0, 80.0, 90.0, 100.0, 110.0])
    assert overlong_penalty(lengths, 100.0, 20.0).tolist() == pytest.approx([0, 0, -0.5, -1, -1])
    assert overlong_penalty(lengths, 100.0, 20.0, 0.5)[2].item() == pytest.approx(-0.25)


def test_overlong_counts_trained_tokens_not_the_span():
    # row 1 spans three columns but has two tokens; limit 3, cache 1: only row 0 is over
    got = overlong_reward(MASK, 3.0, 1.0, 1.0, torch.float64)
    assert got.tolist() == [[0, 0, 0, -1], [0] * 4, [0] * 4]


def test_spreading_keeps_the_sum_or_grows_with_length():
    one = torch.ones(2, dtype=torch.float64)
    mask = MASK[:2]
    # γ = .5: shares 1/8, 1/4, 1/2, 1 for four tokens; 1/2, 1 for two, across the gap
    got = spread_discounted(one, mask, 0.5)
    assert got.tolist() == [[0.125, 0.25, 0.5, 1], [0.5, 0, 1, 0]]
    got = spread_normalised(one, mask, 0.5)
    assert got.sum(-1).tolist() == pytest.approx([1, 1])
    assert got[1].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert spread_uniform(one, mask).tolist() == [[0.25] * 4, [0.5, 0, 0.5, 0]]


@pytest.mark.parametrize(
    "spread",
    [
        partial(spread_discounted, gamma=0.9),
        partial(spread_normalised, gamma=0.9),
        spread_uniform,
    ],
    ids=lambda spread: getattr(spread, "func", spread).__name__,
)
def test_an_empty_row_stays_empty(spread):
    assert spread(SCORES, MASK)[2].tolist() == [0] * 4
