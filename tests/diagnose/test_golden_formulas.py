"""Formulas that only golden cases use, by hand."""

import math

import pytest
import torch

from polopt.diagnose.conformance.formulas import (
    exploration_probability,
    negative_log_likelihood,
    raw_singletons,
    regularised_reward,
    token_shift,
)

NAN = float("nan")


def test_pretraining_term_by_hand():
    logp = torch.tensor([[-2.0, -1.0], [-0.6, NAN]], dtype=torch.float64)
    assert negative_log_likelihood(logp, ~torch.isnan(logp)).item() == pytest.approx(1.2)
    # rewards 1, .2; log-ratios 2, .5; β = .02: mean(.96, .19)
    r, rl, sft = (
        torch.tensor(x, dtype=torch.float64) for x in ([1, 0.2], [-20, -15], [-22, -15.5])
    )
    assert regularised_reward(r, rl, sft, 0.02).item() == pytest.approx(0.575)


def test_raw_singletons_reproduce_the_other_convention():
    group, valid = torch.tensor([0, 0, 1, 2]), torch.tensor([True, True, True, False])
    got = raw_singletons(
        torch.tensor([0.5, -0.5, 0, 0]), torch.tensor([1, 0, 5, NAN]), group, valid
    )
    assert got.tolist() == [0.5, -0.5, 5.0, 0.0]


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
