"""Preference losses: worked numbers, slopes, rankings against a loop."""

import math
from itertools import permutations

import pytest
import torch

from polopt.diagnose.conformance.formulas import (
    dpo_gradient_weight,
    preference_logits,
    ranking_loss,
)
from polopt.math.preference import (
    dpo_loss,
    expected_calibration_error,
    has_pair,
    hinge_loss,
    implicit_reward,
    ipo_loss,
    ordered_pairs,
    pair_accuracy,
    pair_confidence,
    pairwise_loss,
    plackett_luce_loss,
    prompt_means,
)
from polopt.math.reduce import row_mean


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


H = preference_logits(vector(-10), vector(-12), vector(-11), vector(-11.5))  # 1 - (-.5) = 1.5


def test_dpo_by_hand():
    assert H.tolist() == [1.5]
    # -log σ(.15)
    assert dpo_loss(H, beta=0.1).item() == pytest.approx(0.620957, abs=1e-6)
    # .9·(-log σ(.15)) + .1·(-log σ(-.15))
    smoothed = dpo_loss(H, beta=0.1, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(0.635957, abs=1e-6)
    assert ipo_loss(H, beta=0.1).item() == pytest.approx(12.25)  # (1.5 - 5)²
    assert implicit_reward(vector(-10), vector(-11), 0.1).item() == pytest.approx(0.1)


def test_the_gradient_weight_is_the_slope():
    h = vector(-3, 0, 2).requires_grad_()
    (slope,) = torch.autograd.grad(dpo_loss(h, beta=0.3).sum(), h)
    assert torch.allclose(-slope, dpo_gradient_weight(h.detach(), beta=0.3))


def test_extreme_logits_stay_finite():
    h = vector(-1e4, 1e4).requires_grad_()
    loss = dpo_loss(h, beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4, 0.0])
    assert h.grad.isfinite().all()


def test_a_pair_by_hand():
    # -log σ(2 - 1), and -log σ(2 - 1 - .5)
    group = torch.tensor([0, 0])
    assert ranking_loss(vector(2, 1), vector(0, 1), group)[1].item() == pytest.approx(
        0.313262, abs=1e-6
    )
    margin = ranking_loss(vector(2, 1), vector(0, 1), group, 0.5)[1]
    assert margin.item() == pytest.approx(0.474077, abs=1e-6)


def test_rankings_against_a_loop():
    gen = torch.Generator().manual_seed(0)
    scores = torch.randn(12, generator=gen, dtype=torch.float64)
    ranks = torch.randint(0, 3, (12,), generator=gen).double()
    group = torch.tensor([3, 1, 1, 3, 3, 0, 1, 0, 3, 7, 1, 0])
    per_prompt, loss = ranking_loss(scores, ranks, group)
    expected = []
    for g in (0, 1, 3, 7):
        rows = [i for i in range(12) if group[i] == g]
        terms = [
            math.log1p(math.exp(-(float(scores[i]) - float(scores[j]))))
            for i in rows
            for j in rows
            if ranks[i] < ranks[j]
        ]
        expected.append(sum(terms) / len(terms) if terms else math.nan)
    assert per_prompt.tolist() == pytest.approx(expected, nan_ok=True)
    usable = [x for x in expected if not math.isnan(x)]
    assert loss.item() == pytest.approx(sum(usable) / len(usable))


def test_only_ties_give_no_loss_and_no_gradient():
    scores = vector(1, 2, 3).requires_grad_()
    per_prompt, loss = ranking_loss(scores, torch.zeros(3).double(), torch.tensor([0, 0, 1]))
    loss.backward()
    assert per_prompt.isnan().all()
    assert loss.item() == 0.0
    assert scores.grad.tolist() == [0.0, 0.0, 0.0]


def test_hinge_by_hand():
    # 1 - .1·1.5, 1 - .1·(-3), and 0 from βh = 1 on
    assert hinge_loss(vector(1.5, -3, 10, 12), beta=0.1).tolist() == pytest.approx(
        [0.85, 1.3, 0.0, 0.0]
    )


def test_length_normalised_ipo_by_hand():
    """Log-ratios .5 and -.1 a token: h = .2 - (-.1) = .3, and (.3 - 5)² = 22.09."""
    ratios = torch.tensor([[0.5, -0.1, math.nan], [-0.1, -0.1, -0.1]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    means = row_mean(ratios, mask)
    assert means.tolist() == pytest.approx([0.2, -0.1])
    assert ipo_loss(means[:1] - means[1:], beta=0.1).tolist() == pytest.approx([22.09])


def test_a_margin_asks_for_more_under_either_label():
    h, none = vector(0.7), vector(0)
    assert dpo_loss(h, beta=2.0, margin=0.4).item() == pytest.approx(
        dpo_loss(vector(1.0), beta=1.0).item()  # 2·.7 - .4
    )
    swapped = dpo_loss(-h, beta=2.0, label_smoothing=1.0, margin=0.4)  # every label is wrong
    assert swapped.item() == pytest.approx(dpo_loss(h, beta=2.0, margin=0.4).item())
    assert dpo_loss(none, beta=1.0, margin=0.5).item() == pytest.approx(0.974077, abs=1e-6)


def test_plackett_luce_by_hand():
    """Scores log 3, log 2, log 1: the best first with 3/6, then the second with 2/3."""
    scores = vector(3, 2, 1).log()
    group = torch.zeros(3, dtype=torch.int64)
    loss = plackett_luce_loss(scores, vector(0, 1, 2), group)
    assert loss.tolist() == pytest.approx([math.log(2) + math.log(1.5)])
    # worst first: 1/6, then 2/5
    loss = plackett_luce_loss(scores, vector(2, 1, 0), group)
    assert loss.tolist() == pytest.approx([math.log(6) + math.log(2.5)])
    # the first two tie, and each wins against the third alone: 3/4 and 2/3
    loss = plackett_luce_loss(scores, vector(0, 0, 1), group)
    assert loss.tolist() == pytest.approx([math.log(4 / 3) + math.log(1.5)])


def test_plackett_luce_of_two_is_the_pair():
    scores, ranks, group = (
        vector(0.3, -1.2, 2.0, 0.5),
        vector(1, 0, 0, 1),
        torch.tensor([5, 5, 2, 2]),
    )
    pairs = pairwise_loss(scores, ranks, group, lambda h: dpo_loss(h, beta=0.7))
    assert plackett_luce_loss(scores, ranks, group, beta=0.7).tolist() == pytest.approx(
        pairs.tolist()
    )


def test_plackett_luce_sums_to_one_over_all_rankings():
    scores, group = vector(0.4, -1.0, 2.2, 0.1), torch.zeros(4, dtype=torch.int64)
    total = sum(
        math.exp(-plackett_luce_loss(scores, vector(*order), group).item())
        for order in permutations(range(4))
    )
    assert total == pytest.approx(1.0)


def test_plackett_luce_of_ties_alone_is_nan_without_a_gradient():
    scores = vector(1, 2, 5).requires_grad_()
    losses = plackett_luce_loss(scores, vector(0, 0, 0), torch.tensor([0, 0, 1]))
    assert losses.isnan().all()
    torch.where(losses.isnan(), 0.0, losses).sum().backward()
    assert scores.grad.tolist() == [0.0, 0.0, 0.0]


def test_pairs_of_prompts():
    ranks, group = vector(0, 1, 1, 3, 2), torch.tensor([4, 4, 4, 7, 9])
    i, j = ordered_pairs(ranks, group)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2)]
    assert has_pair(ranks, group).tolist() == [True, False, False]
    means = prompt_means(vector(1, 3), i, group)
    assert means.tolist() == pytest.approx([2.0, math.nan, math.nan], nan_ok=True)


def test_pair_accuracy_counts_a_tie_as_half():
    # prompt 0: 3 > 1 right, 3 = 3 half, 1 > 3 wrong; prompt 1: right
    scores, ranks = vector(3, 1, 3, 0.1, 0.0), vector(0, 1, 2, 0, 1)
    group = torch.tensor([0, 0, 0, 1, 1])
    assert pair_accuracy(scores, ranks, group).tolist() == pytest.approx([0.5, 1.0])


def test_confidence_of_a_verdict():
    confidence, right = pair_confidence(vector(math.log(3), -math.log(3), 0))
    assert confidence.tolist() == pytest.approx([0.75, 0.75, 0.5])
    assert right.tolist() == [1.0, 0.0, 0.5]


def test_calibration_error_by_hand():
    # bin (.5, .55]: 2 verdicts of .54, 1 right: 2·|.5 - .54|; bin (.85, .9]: .9 and wrong: |0 - .9|
    confidence, right = vector(0.54, 0.54, 0.9), vector(1, 0, 0)
    assert expected_calibration_error(confidence, right).item() == pytest.approx((0.08 + 0.9) / 3)
    # one bin: |mean right - mean confidence|
    one = expected_calibration_error(confidence, right, bins=1)
    assert one.item() == pytest.approx(abs(1 / 3 - 1.98 / 3))
    assert expected_calibration_error(vector(1.0, 0.0), vector(1, 0)).item() == 0.0  # the ends
    # an upper edge belongs to its bin: .5 and .25 are in (0, .5], |.5 - .375|·2/2
    edge = expected_calibration_error(vector(0.5, 0.25), vector(0, 1), bins=2)
    assert edge.item() == pytest.approx(0.125)
    assert expected_calibration_error(vector(), vector()).item() == 0.0


def test_verdicts_as_sure_as_they_are_right_are_calibrated():
    """Labels drawn with the probability that the scores say."""
    generator = torch.Generator().manual_seed(3)
    h = 2 * torch.randn(40_000, generator=generator, dtype=torch.float64)
    flip = torch.rand(len(h), generator=generator, dtype=torch.float64) > torch.sigmoid(h)
    honest = torch.where(flip, -h, h)
    assert expected_calibration_error(*pair_confidence(honest)).item() < 0.01
    assert expected_calibration_error(*pair_confidence(3 * honest)).item() > 0.1


def test_errors_of_two_bins_do_not_cancel_in_the_calibration():
    """Sure by 0.9 and wrong, by 0.6 and right: (0.9 + 0.4) / 2, not (0.9 - 0.4) / 2."""
    error = expected_calibration_error(vector(0.9, 0.6), vector(0.0, 1.0))
    assert error.item() == pytest.approx(0.65)
