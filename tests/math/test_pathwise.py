"""Targets, temperature and the squashed Gaussian."""

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from polopt.math.noise import ou_step
from polopt.math.pathwise import (
    ddpg_target,
    q_loss,
    sac_policy_loss,
    sac_target,
    soft_update,
    tanh_gaussian,
    temperature_loss_exp,
    temperature_loss_log,
)


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_targets_by_hand():
    ends = torch.tensor([False, True])
    assert ddpg_target(vector(1, 2), ends, vector(5, 4), 0.5).tolist() == [3.5, 2.0]
    # min(5, 4.5) - .2·(-1) = 4.7
    got = sac_target(vector(1, 2), ends, vector(5, 4), vector(4.5, 6), vector(-1, 1), 0.2, 0.5)
    assert got.tolist() == pytest.approx([3.35, 2.0])


def test_the_smaller_of_two_critics_counts_whichever_it_is():
    ends = torch.tensor([False, False])
    # min(5, 3) and min(4, 6), each ·½
    got = sac_target(vector(0, 0), ends, vector(5, 4), vector(3, 6), vector(0, 0), 0.2, 0.5)
    assert got.tolist() == [1.5, 2.0]
    # mean of .2·1 - 3 and .2·(-2) - 4
    q1, q2 = vector(5, 4).requires_grad_(), vector(3, 6).requires_grad_()
    loss = sac_policy_loss(q1, q2, vector(1, -2), 0.2)
    assert loss.item() == pytest.approx((-2.8 - 4.4) / 2)
    loss.backward()
    assert (q1.grad.tolist(), q2.grad.tolist()) == ([0, -0.5], [-0.5, 0])


def test_every_critic_learns_from_its_own_error():
    # (1 + 9)/2 + (4 + 0)/2, slopes 2(q - y)/2
    q = torch.tensor([[2.0, 4.0], [-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = q_loss(q, vector(1, 1))
    loss.backward()
    assert loss.item() == 7.0
    assert q.grad.tolist() == [[1, 3], [-2, 0]]


def test_a_terminal_bootstrap_is_not_read():
    got = ddpg_target(vector(2), torch.tensor([True]), vector(math.nan), 0.99)
    assert got.tolist() == [2.0]


def test_soft_update_runs_from_target_to_source():
    target, source = vector(1, -2), vector(0, 4)
    assert soft_update(target, source, 0.25).tolist() == [0.75, -0.5]
    assert torch.equal(soft_update(target, source, 0.0), target)
    assert torch.equal(soft_update(target, source, 1.0), source)
    far, near = torch.tensor([1e8]), torch.tensor([0.1])  # 1e8 + (0.1 - 1e8) is 0 in float32
    assert torch.equal(soft_update(far, near, 1.0), near)


def test_temperature_forms_differ_by_alpha():
    log_alpha = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    logp = vector(-1.2, 0.7).requires_grad_()
    slopes = []
    for loss in (temperature_loss_log, temperature_loss_exp):
        (slope,) = torch.autograd.grad(loss(log_alpha, logp, -2.0), log_alpha)
        slopes.append(slope.item())
    assert slopes[0] == pytest.approx(2.25)  # -(mean(-1.2, .7) - 2)
    assert slopes[1] == pytest.approx(math.exp(-1.0) * 2.25)


def test_squashed_log_prob_against_the_transformed_distribution():
    gen = torch.Generator().manual_seed(1)
    u, mean, log_std = (torch.randn(5, 3, generator=gen, dtype=torch.float64) for _ in range(3))
    action, logp = tanh_gaussian(u, mean, log_std)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    assert torch.allclose(logp, squashed.log_prob(action).sum(-1), atol=1e-6)


def test_squashing_does_not_saturate():
    u = torch.tensor([[30.0]])
    _, logp = tanh_gaussian(u, u, torch.zeros(1, 1))
    # log N(0) - 2(log 2 - u): far beyond where 1 - tanh² is 0 in float32
    assert logp.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 30))


def test_ornstein_uhlenbeck_by_hand():
    # .1 + .15·(0 - .1)·.01 + .2·.1·1
    got = ou_step(vector(0.1), vector(1), vector(0), 0.15, 0.2, 0.01)
    assert got.item() == pytest.approx(0.11985)
    still = ou_step(vector(0.7), vector(0), vector(0.7), 0.15, 0.2, 1.0)
    assert still.item() == pytest.approx(0.7)


@pytest.mark.parametrize("loss", [temperature_loss_log, temperature_loss_exp])
def test_the_loss_of_the_temperature_has_no_gradient_for_the_policy(loss):
    log_alpha = torch.tensor(0.5, requires_grad=True)
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    (loss(log_alpha, logp, -1.0) + 0.0 * logp.sum()).backward()
    assert log_alpha.grad.item() != 0.0
    assert logp.grad.tolist() == [0.0, 0.0]
