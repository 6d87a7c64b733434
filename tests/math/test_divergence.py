"""KL estimators: values and slopes by hand, and their worth on an enumerable categorical."""

import math

import pytest
import torch

from polopt.diagnose.conformance.softmax import (
    expected_estimator,
    forward_kl_gradient,
    kl_divergence,
    reverse_kl_gradient,
)
from polopt.math.divergence import (
    ESTIMATORS,
    gaussian_kl_divergence,
    importance_corrected,
    k1,
    k2,
    k3,
    kl_divergence_of_logs,
    response_kl,
)


def value_and_slope(estimator, d):
    x = torch.tensor(d, dtype=torch.float64, requires_grad=True)
    value = estimator(x)
    return value.item(), torch.autograd.grad(value, x)[0].item()


@pytest.mark.parametrize(
    ("d", "values", "slopes"),
    [
        (-0.5, (-0.5, 0.125, 0.148721), (1, -0.5, -0.648721)),
        (0.5, (0.5, 0.125, 0.106531), (1, 0.5, 0.393469)),
        (2.0, (2.0, 2.0, 1.135335), (1, 2.0, 0.864665)),
        (0.0, (0.0, 0.0, 0.0), (1, 0.0, 0.0)),
    ],
)
def test_by_hand(d, values, slopes):
    for estimator, value, slope in zip((k1, k2, k3), values, slopes, strict=True):
        assert value_and_slope(estimator, d) == pytest.approx((value, slope), abs=1e-6)


def test_k3_pulls_back_from_far_below_the_reference():
    # a cap of 10 on the value would stop the gradient at d = -2.62; here it is 1 - e^2.62
    assert value_and_slope(k3, -2.61)[1] == pytest.approx(1 - math.exp(2.61))
    assert value_and_slope(k3, -2.62)[1] == pytest.approx(1 - math.exp(2.62))


@pytest.mark.parametrize("d", [-1e4, -88.8, -30.0, 30.0, 1e4])
def test_k3_is_finite_at_extreme_values(d):
    x = torch.tensor([d], requires_grad=True)
    value = k3(x)
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()


def test_k3_keeps_small_values_in_float32():
    # d²/2 - d³/6 at d = 1e-3 is 4.99833e-7; e⁻ᵈ - 1 + d would lose a tenth of it
    assert k3(torch.tensor([1e-3])).item() == pytest.approx(4.99833e-7, rel=1e-3)


LOGITS = torch.tensor([1.0, 0.2, -0.5, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.4, 0.3, -0.2], dtype=torch.float64)
P, Q = LOGITS.softmax(-1), REFERENCE.softmax(-1)
REVERSE = [0.258545, -0.121565, -0.124762, -0.012218]  # ∇KL(π‖ref)
FORWARD = [0.249087, -0.096917, -0.175927, 0.023757]  # ∇KL(ref‖π)


def test_exact_divergence_and_its_gradients():
    assert kl_divergence(P, Q).item() == pytest.approx(0.191997, abs=1e-6)
    assert reverse_kl_gradient(P, Q).tolist() == pytest.approx(REVERSE, abs=1e-6)
    assert forward_kl_gradient(P, Q).tolist() == pytest.approx(FORWARD, abs=1e-6)
    z = LOGITS.clone().requires_grad_()
    kl_divergence(z.softmax(-1), Q).backward()
    assert z.grad.tolist() == pytest.approx(REVERSE, abs=1e-6)


def test_what_is_unbiased():
    assert expected_estimator(P, Q, k1)[0].item() == pytest.approx(0.191997, abs=1e-6)
    assert expected_estimator(P, Q, k3)[0].item() == pytest.approx(0.191997, abs=1e-6)
    assert expected_estimator(P, Q, k2)[0].item() == pytest.approx(0.195005, abs=1e-6)


def test_gradient_in_the_loss():
    assert expected_estimator(P, Q, k1)[1].tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert expected_estimator(P, Q, k2)[1].tolist() == pytest.approx(REVERSE, abs=1e-6)
    assert expected_estimator(P, Q, k3)[1].tolist() == pytest.approx(FORWARD, abs=1e-6)
    cosine = torch.cosine_similarity(
        expected_estimator(P, Q, k3)[1], reverse_kl_gradient(P, Q), dim=0
    )
    assert cosine.item() == pytest.approx(0.9774, abs=1e-4)


def test_gradient_in_the_reward():
    assert expected_estimator(P, Q, k1)[2].tolist() == pytest.approx(REVERSE, abs=1e-6)
    difference = reverse_kl_gradient(P, Q) - forward_kl_gradient(P, Q)
    assert torch.allclose(expected_estimator(P, Q, k3)[2], difference)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_the_importance_corrected_loss_is_exact_off_policy(name):
    # samples of another old policy: E_old[∇(ρ·k)] = ∇KL(π‖ref)
    old = torch.tensor([0.3, -0.4, 0.5, 0.0], dtype=torch.float64).log_softmax(-1)
    z = LOGITS.clone().requires_grad_()
    logp = z.log_softmax(-1)
    k = ESTIMATORS[name](logp - REFERENCE.log_softmax(-1))
    (old.exp() * importance_corrected(k, logp - old)).sum().backward()
    assert z.grad.tolist() == pytest.approx(REVERSE, abs=1e-6)


def test_the_corrected_slope_by_hand():
    # d(ρ·k3)/dlog π = ρ(k3 + 1 - e⁻ᵈ), d = .5, ρ = 2
    x = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    value = importance_corrected(k3(x + 0.5), x + math.log(2.0))
    assert torch.autograd.grad(value.sum(), x)[0].item() == pytest.approx(2 * (0.106531 + 0.393469))


def test_an_impossible_token_costs_nothing():
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    assert kl_divergence(p, q).item() == pytest.approx(math.log(2))


def test_the_divergence_of_responses_is_a_mean_of_sums():
    """Sums 0.3, -0.1 and none at all: (0.3 - 0.1) / 2; what is masked may be NaN."""
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    logp = torch.tensor([[-1.0, -2.0], [-1.0, math.nan], [math.nan, math.nan]])
    reference = torch.tensor([[-1.1, -2.2], [-0.9, math.nan], [math.nan, math.nan]])
    assert response_kl(logp, reference, mask).item() == pytest.approx(0.1, abs=1e-6)
    assert response_kl(logp[2:], reference[2:], mask[2:]).item() == 0.0


def test_divergence_of_logs_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    # ½ log(5/9) + ½ log 5 = ½ log(25/9) = log(5/3)
    assert kl_divergence_of_logs(p, q).item() == pytest.approx(math.log(5 / 3))
    assert kl_divergence_of_logs(q, p).item() == pytest.approx(
        0.9 * math.log(1.8) - 0.1 * math.log(5)
    )


def test_divergence_of_logs_is_that_of_the_probabilities():
    p, q = torch.randn(2, 3, 4, 7, dtype=torch.float64).log_softmax(-1)
    assert torch.allclose(kl_divergence_of_logs(p, q), kl_divergence(p.exp(), q.exp()))
    assert kl_divergence_of_logs(p, p).tolist() == [[0.0] * 4] * 3


def test_forbidden_tokens_add_nothing_to_a_divergence_or_to_its_derivatives():
    logits = torch.tensor([0.3, -0.2, 5.0, 1.0], dtype=torch.float64, requires_grad=True)
    allowed = torch.tensor([True, True, False, True])

    def logs(masked):
        x = logits.masked_fill(~allowed, -torch.inf) if masked else logits[allowed]
        return x.log_softmax(-1)

    def products(masked):
        new = logs(masked)
        kl = kl_divergence_of_logs(new.detach() + 0.0, new)
        (slope,) = torch.autograd.grad(kl, logits, create_graph=True)
        (product,) = torch.autograd.grad(slope @ torch.arange(4.0, dtype=torch.float64), logits)
        return kl, slope.detach(), product

    for one, other in zip(products(True), products(False), strict=True):
        assert torch.isfinite(one).all()
        assert torch.allclose(one, other)
    assert products(True)[2].abs().sum() > 0.1


def test_what_only_the_second_rules_out_is_infinitely_far():
    p, q = torch.zeros(2).log_softmax(-1), torch.tensor([0.0, -torch.inf])
    assert kl_divergence_of_logs(p, q).item() == math.inf
    assert kl_divergence_of_logs(q, p).item() == pytest.approx(math.log(2))


def test_gaussians_by_hand():
    """KL(N(0, 1)‖N(1, 1)) = ½; KL(N(0, 1)‖N(0, 2)) = log 2 + ⅛ - ½; dimensions add up."""
    zero, one, log2 = (torch.tensor([x], dtype=torch.float64) for x in (0.0, 1.0, math.log(2)))
    assert gaussian_kl_divergence(zero, zero, one, zero).item() == pytest.approx(0.5)
    found = gaussian_kl_divergence(zero, zero, zero, log2)
    assert found.item() == pytest.approx(0.318147, abs=1e-6)
    wide = [torch.cat(pair) for pair in ((zero, zero), (zero, zero), (one, zero), (zero, log2))]
    assert gaussian_kl_divergence(*wide).item() == pytest.approx(0.818147, abs=1e-6)


def test_gaussians_are_those_of_torch_and_the_same_are_at_zero():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    normals = [torch.distributions.Normal(mean, log_std.exp()) for mean, log_std in (p, q)]
    expected = torch.distributions.kl_divergence(*normals).sum(-1)
    torch.testing.assert_close(gaussian_kl_divergence(*p, *q), expected)
    assert gaussian_kl_divergence(*p, *p).abs().max() == 0.0
