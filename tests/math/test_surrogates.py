"""Ratios and surrogates: quadrants by hand, slopes by autograd, identities between methods."""

import math

import pytest
import torch

from polopt.math.ratios import (
    no_log_ratio,
    safe_exp,
    sequence_mean_log_ratio,
    sequence_sum_log_ratio,
    token_log_ratio,
)
from polopt.math.reduce import masked
from polopt.math.surrogates import (
    cispo,
    clipped,
    gmpo,
    importance_sampled,
    kl_penalised,
    opmd,
    sapo,
    score_function,
)

NAN = float("nan")


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def slope(surrogate, ratios, advantages, **numbers):
    """ℓ and dℓ/dlog π at given ratios, old log-probs being 0."""
    logp = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    mask = torch.ones_like(logp).bool()
    a = torch.tensor([advantages], dtype=torch.float64)
    loss, events = surrogate(logp, logp, a, mask, **numbers)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    return loss[0].tolist(), gradient[0].tolist(), {k: v[0].tolist() for k, v in events.items()}


RATIOS = [0.5, 0.9, 1.0, 1.1, 1.5, 5.0]


def test_clip_where_the_advantage_is_positive():
    loss, gradient, events = slope(clipped, RATIOS, [1.0] * 6, low=0.2, high=0.2)
    assert loss == pytest.approx([-0.5, -0.9, -1, -1.1, -1.2, -1.2])
    assert gradient == pytest.approx([-0.5, -0.9, -1, -1.1, 0, 0])
    assert events["clip_fraction_high"] == [False] * 4 + [True] * 2
    assert not any(events["clip_fraction_low"])


def test_clip_where_the_advantage_is_negative():
    loss, gradient, events = slope(clipped, RATIOS, [-1.0] * 6, low=0.2, high=0.2)
    assert loss == pytest.approx([0.8, 0.9, 1, 1.1, 1.5, 5])
    assert gradient == pytest.approx([0, 0.9, 1, 1.1, 1.5, 5])
    assert events["clip_fraction_low"] == [True] + [False] * 5
    assert not any(events["clip_fraction_high"])


def test_dual_clip_bounds_the_last_quadrant():
    loss, gradient, events = slope(clipped, RATIOS, [-1.0] * 6, low=0.2, high=0.2, dual=3.0)
    assert loss == pytest.approx([0.8, 0.9, 1, 1.1, 1.5, 3])
    assert gradient == pytest.approx([0, 0.9, 1, 1.1, 1.5, 0])
    assert events["dual_clip_fraction"] == [False] * 5 + [True]
    loss, _, _ = slope(clipped, RATIOS, [1.0] * 6, low=0.2, high=0.2, dual=3.0)
    assert loss[-1] == pytest.approx(-1.2)  # a positive advantage never meets it


def test_a_tie_counts_as_unclipped_and_its_gradient_flows():
    ones, mask = torch.ones(1, 1), torch.ones(1, 1).bool()
    edge = torch.full((1, 1), 1.25).log()
    high = safe_exp(edge).item() - 1.0  # exactly at 1 + ε_high
    logp = edge.clone().requires_grad_()
    loss, events = clipped(logp, logp, ones, mask, low=0.2, high=high)
    loss.sum().backward()
    assert not events["clip_fraction_high"].item()
    assert logp.grad.item() == pytest.approx(-1.25)


def test_zero_advantage_is_never_clipped():
    _, gradient, events = slope(clipped, RATIOS, [0.0] * 6, low=0.2, high=0.2, dual=3.0)
    assert gradient == [0.0] * 6
    assert not any(any(v) for v in events.values())


@pytest.mark.parametrize("advantage", [-2.0, 0.7])
def test_at_ratio_one_every_surrogate_has_the_policy_gradient(advantage):
    for surrogate, numbers in [
        (score_function, {}),
        (importance_sampled, {}),
        (clipped, {"low": 0.2, "high": 0.2, "dual": 3.0}),
        (cispo, {"weight_max": 5.0}),
        (sapo, {"tau_positive": 1.0, "tau_negative": 1.05}),
        (opmd, {"tau": 0.1}),
        (gmpo, {"low": 0.4, "high": 0.4}),
    ]:
        _, gradient, _ = slope(surrogate, [1.0], [advantage], **numbers)
        assert gradient == pytest.approx([-advantage]), surrogate.__name__


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    loss, gradient, events = slope(cispo, [0.5, 1.0, 9.0], [1.0, 1.0, -2.0], weight_max=5.0)
    assert gradient == pytest.approx([-0.5, -1.0, 10.0])  # -w·A, w = .5, 1, 5
    assert loss == pytest.approx([-0.5 * math.log(0.5), 0.0, 10 * math.log(9)])
    assert events["clip_fraction_high"] == [False, False, True]


def test_sapo_by_hand():
    # ρ = 1, A = 1: -A·σ(0)·4/τ = -2; A = -1, τ = 1.05: 2/1.05
    loss, _, _ = slope(sapo, [1.0, 1.0], [1.0, -1.0], tau_positive=1.0, tau_negative=1.05)
    assert loss == pytest.approx([-2.0, 2 / 1.05])


def test_gmpo_clips_before_the_mean_and_on_one_side():
    # A>0: log ρ = .9, -.9 → .4, -.9 (only growth is cut); mean -.25; ℓ = -e^-.25 on each token
    loss, gradient, events = slope(
        gmpo, [math.exp(0.9), math.exp(-0.9)], [1.0, 1.0], low=0.4, high=0.4
    )
    assert loss == pytest.approx([-math.exp(-0.25)] * 2)
    assert gradient == pytest.approx([0.0, -math.exp(-0.25)])  # two tokens, each half of the mean
    assert events["clip_fraction_high"] == [True, False]


def test_opmd_is_a_loss_of_the_sequence():
    # log-ratio of the row .3 - .1 = .2; A = .5, τ = .1: slope -.5 + .1·.2 on every token
    logp = row(0.3, -0.1).requires_grad_()
    mask = torch.ones(1, 2).bool()
    log_ratio = sequence_sum_log_ratio(logp, torch.zeros_like(logp), mask)
    loss, _ = opmd(logp, log_ratio, torch.full((1, 2), 0.5).double(), mask, tau=0.1)
    assert loss.sum().item() == pytest.approx(-0.5 * 0.2 + 0.05 * 0.04)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert gradient[0].tolist() == pytest.approx([-0.48, -0.48])


def test_ratio_levels_by_hand():
    logp, old = row(0.1, 0.3, NAN), row(0.0, 0.1, NAN)
    mask = torch.tensor([[True, True, False]])
    assert token_log_ratio(logp, old, mask)[0].tolist() == pytest.approx([0.1, 0.2, 0])
    assert sequence_sum_log_ratio(logp, old, mask)[0].tolist() == pytest.approx([0.3, 0.3, 0])
    assert sequence_mean_log_ratio(logp, old, mask)[0].tolist() == pytest.approx([0.15, 0.15, 0])
    assert no_log_ratio(logp, old, mask)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "level", [token_log_ratio, sequence_sum_log_ratio, sequence_mean_log_ratio, no_log_ratio]
)
def test_nan_outside_the_mask_reaches_neither_value_nor_gradient(level):
    logp = torch.tensor([[0.1, NAN], [NAN, NAN]], requires_grad=True)
    old = torch.tensor([[0.2, NAN], [NAN, NAN]])
    mask = torch.tensor([[True, False], [False, False]])
    ratio = safe_exp(level(logp, old, mask))
    assert ratio[~mask].tolist() == [1.0, 1.0, 1.0]  # an empty row has ratio 1
    (ratio + 0.0 * masked(logp, mask)).sum().backward()
    assert logp.grad[~mask].tolist() == [0.0, 0.0, 0.0]
    assert logp.grad.isfinite().all()


def test_extreme_ratios_stay_finite():
    logp = torch.tensor([[300.0, -300.0]], requires_grad=True)
    zeros, mask = torch.zeros(1, 2), torch.ones(1, 2).bool()
    ratio = safe_exp(token_log_ratio(logp, zeros, mask))
    ratio.sum().backward()
    assert ratio[0].tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert logp.grad.tolist() == [[0.0, 0.0]]  # a guard: no gradient beyond it


def test_the_kl_penalty_by_hand():
    """β = 2: ℓ = -Aρ + 2(ρ - 1 - ln ρ) with slope -Aρ + 2(ρ - 1); nothing is cut off."""
    loss, gradient, events = slope(kl_penalised, [0.5, 1.0, 2.0], [1.0, 1.0, -1.0], coefficient=2.0)
    ln2 = math.log(2.0)
    assert loss == pytest.approx([-0.5 + 2 * (ln2 - 0.5), -1.0, 2.0 + 2 * (1.0 - ln2)])
    assert gradient == pytest.approx([-1.5, -1.0, 4.0])
    assert events == {}


def test_the_kl_penalty_is_finite_where_a_token_has_all_but_vanished():
    loss, gradient, _ = slope(kl_penalised, [1e-12, 1e12], [1.0, 1.0], coefficient=1.0)
    assert all(map(math.isfinite, [*loss, *gradient]))


def test_the_square_of_opmd_is_spread_over_the_tokens_of_its_own_response():
    """τ/2 (log ρ)² = ½ · 0.2 · 9 = 0.9 a response: of one token, and of three, 0.3 on each."""
    mask = torch.tensor([[True, False, False], [True, True, True]])
    log_ratio = torch.where(mask, 3.0, 0.0).double()
    nothing = torch.zeros(2, 3).double()
    loss, _ = opmd(nothing, log_ratio, nothing, mask, tau=0.2)
    assert (loss * mask).sum(-1).tolist() == pytest.approx([0.9, 0.9])
    assert loss[1].tolist() == pytest.approx([0.3] * 3)
