"""Conjugate gradients, the trust region, and line searches that fail; exact facts on a bandit."""

import pytest
import torch

from polopt.diagnose.conformance.softmax import (
    gradient_moments,
    gradient_of,
    hessian_product,
    optimal_baseline,
    policy_gradient,
    softmax_step_functions,
)
from polopt.math.natural import (
    conjugate_gradient,
    trust_region_step,
)


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_conjugate_gradients_against_a_direct_solve(scale):
    gen = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=gen, dtype=torch.float64)
    matrix = a @ a.T + torch.eye(6, dtype=torch.float64)
    b = scale * torch.randn(6, generator=gen, dtype=torch.float64)
    x = conjugate_gradient(lambda v: matrix @ v, b, iterations=20)
    assert torch.allclose(x, torch.linalg.solve(matrix, b), rtol=1e-4, atol=1e-6 * scale)


def test_conjugate_gradients_of_nothing():
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(lambda v: v, zero), zero)
    flat = conjugate_gradient(lambda v: 0 * v, vector(1, 2, 3))
    assert torch.equal(flat, zero)


def test_hessian_product_of_a_quadratic():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    product = hessian_product(lambda x: x @ matrix @ x / 2, vector(5, -1), damping=0.5)
    assert product(vector(1, 0)).tolist() == [2.5, 1.0]
    assert gradient_of(lambda x: x @ matrix @ x / 2, vector(1, 1)).tolist() == [3.0, 4.0]


def searched(surrogate, kl, start, damping=0.0, **settings):
    """The step of a surrogate and a divergence that are plain functions of the parameters."""
    return trust_region_step(
        lambda at: (surrogate(at), kl(at)),
        hessian_product(kl, start, damping),
        gradient_of(surrogate, start),
        start,
        surrogate(start),
        **settings,
    )


def step(theta, advantages, fixed_last=True, **settings):
    theta = vector(*theta)
    _, surrogate, kl = softmax_step_functions(theta, vector(*advantages), fixed_last)
    return theta, surrogate, kl, searched(surrogate, kl, theta, **settings)


@pytest.mark.parametrize("fixed_last", [True, False])
def test_an_accepted_step_improves_within_the_region(fixed_last):
    theta = (0.2, -0.3) if fixed_last else (0.2, -0.3, 0.0)
    start, surrogate, kl, got = step(theta, (1, -0.5, 0.2), fixed_last, delta=0.01)
    assert got.accepted
    assert got.kl.item() <= 0.01
    assert got.kl.item() == pytest.approx(0.01, rel=0.05)  # the quadratic model is good here
    assert surrogate(got.parameters) > surrogate(start)
    assert torch.equal(got.kl, kl(got.parameters))


def test_both_parametrisations_reach_the_same_policy():
    *_, two = step((0.2, -0.3), (1, -0.5, 0.2), True, delta=0.01)
    *_, three = step((0.2, -0.3, 0.0), (1, -0.5, 0.2), False, delta=0.01)
    left = torch.cat([two.parameters, vector(0)]).softmax(-1)
    assert torch.allclose(left, three.parameters.softmax(-1), atol=1e-6)


def test_a_line_search_that_fails_leaves_the_weights():
    start, surrogate, _, got = step((2, -1), (-1, 3, 0.1), delta=0.5, max_iterations=2)
    assert not got.accepted  # two backtracks would have been needed
    assert torch.equal(got.parameters, start)
    assert got.kl.item() == 0.0
    assert got.surrogate.item() == pytest.approx(surrogate(start).item())


def test_what_is_expected_is_the_gradient_times_the_step():
    start, surrogate, _, got = step((0.2, -0.3), (1, -0.5, 0.2), delta=0.01)
    moved = got.parameters - start
    assert torch.allclose(got.expected, gradient_of(surrogate, start) @ moved)
    # to first order: what was gained differs from it by the curvature
    assert got.expected.item() == pytest.approx((got.surrogate - surrogate(start)).item(), rel=0.1)


def test_the_residual_is_what_conjugate_gradients_left_over():
    *_, solved = step((0.2, -0.3), (1, -0.5, 0.2), delta=0.01)
    assert solved.residual < 1e-10
    start, surrogate, kl, got = step((0.2, -0.3), (1, -0.5, 0.2), delta=0.01, cg_iterations=1)
    g, fisher = gradient_of(surrogate, start), hessian_product(kl, start)
    # one iteration is the step along g: x = (g·g)/(gᵀFg) g
    x = (g @ g) / (g @ fisher(g)) * g
    left = (fisher(x) - g).norm() / g.norm()
    assert got.residual.item() == pytest.approx(left.item())
    assert left > 0.01


def test_a_step_to_where_there_are_no_numbers_is_refused():
    got = searched(lambda x: x.sum(), lambda x: x.square().sum() / 2, vector(0), delta=0.01)
    assert got.accepted
    nowhere = trust_region_step(
        lambda at: (at.sum() * torch.nan, at.sum() * torch.nan),
        lambda v: v,
        vector(1),
        vector(0),
        torch.tensor(0.0, dtype=torch.float64),
        delta=0.01,
    )
    assert not nowhere.accepted
    assert nowhere.backtracks == 10
    assert torch.equal(nowhere.parameters, vector(0))


def test_no_gradient_no_step():
    start, _, _, got = step((0.5, -0.5), (1, 1, 1), delta=0.01)
    assert not got.accepted
    assert got.backtracks == 0
    assert torch.equal(got.parameters, start)
    assert got.scale.item() == 0.0


def test_a_flat_divergence_is_refused_not_followed():
    start = vector(1, 1)
    got = searched(lambda x: x.sum(), lambda x: (0 * x.square()).sum(), start, delta=0.01)
    assert not got.accepted
    assert torch.equal(got.parameters, start)
    assert got.scale.item() == 0.0  # and not infinite
    assert got.residual.item() == 1.0


def test_a_constant_baseline_changes_variance_and_not_the_mean():
    p, rewards = vector(0.5, 0.5), vector(10, 11)
    best = optimal_baseline(p, rewards)
    assert best.item() == 10.5
    moments = [gradient_moments(p, rewards, b) for b in (vector(0)[0], best, vector(100)[0])]
    for mean, _ in moments:
        assert mean.tolist() == pytest.approx([-0.25, 0.25])
    # samples ±(R - b)/2 on both logits: b = 0 gives (10² + 11²)/4 less |mean|², that is 55.125
    assert [v.item() for _, v in moments] == pytest.approx([55.125, 0.0, 4005.125])


def test_the_bandit_gradient_is_that_of_the_expected_value():
    z = vector(0.3, -1.0, 0.7).requires_grad_()
    values = vector(1, 2, 0.5)
    (z.softmax(-1) * values).sum().backward()
    assert torch.allclose(policy_gradient(z.detach().softmax(-1), values), z.grad)


def test_a_step_within_the_region_that_makes_it_worse_is_shortened():
    # L = x - 100x² and KL = x²/2000: the full step √(2·.01/.001) = 4.47 is worse than 0 until
    # x < .01, which .5⁹·4.47 = .0087 is the first to be
    start = vector(0)
    got = searched(
        lambda x: (x - 100 * x.square()).sum(),
        lambda x: x.square().sum() / 2000,
        start,
        delta=0.01,
        backtrack=0.5,
    )
    assert got.accepted
    assert got.backtracks == 9
    assert got.parameters.item() == pytest.approx(0.5**9 * 20**0.5)
