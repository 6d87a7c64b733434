"""Losses of SAC and DDPG through the roles: which critics are asked, and which of them count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from polopt.math.pathwise import temperature_loss_none
from polopt.models.network import ActionValueNetworks, PolicyNetwork, Specification
from polopt.objective.pathwise import Soft, Temperature, soft_policy_loss, soft_q_loss
from polopt.roles.control import ActionCritics, StepActor
from polopt.types import Transitions

ALPHA, GAMMA, SEED = 0.25, 0.5, 4
MADE_OF = Specification(1, 1, "squashed", (), "tanh", 0.0, False, (-1.0,), (1.0,))
STEP = Transitions(torch.tensor([[1.0, 0.5, -1.0, 2.0, 0.0]]), 1, 1)  # s, a, s′, r, no end


def critics(*of: tuple[float, float]) -> ActionCritics:
    """Q(s, a) = v a + b for each (v, b)."""
    networks = ActionValueNetworks(MADE_OF, len(of), torch.Generator())
    with torch.no_grad():
        networks.weights[0].copy_(torch.tensor([[[0.0], [v]] for v, _ in of]))
        networks.biases[0].copy_(torch.tensor([[[b]] for _, b in of]))
    return ActionCritics(networks)


def sac(live: ActionCritics, lagged: ActionCritics) -> Soft:
    """A policy that draws tanh of N(0, 1) in every state."""
    network = PolicyNetwork(MADE_OF, torch.Generator())
    for weight in network.parameters():
        weight.data.zero_()
    temperature = Temperature(
        Parameter(torch.tensor(ALPHA).log()), temperature_loss_none, target_entropy=-1.0
    )
    return Soft(StepActor(network), live, lagged, temperature, GAMMA)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def drawn() -> tuple[float, float]:
    """What it draws, a = tanh n, and log π(a) = log N(n) - log(1 - a²)."""
    n = float(torch.randn(1, 1, generator=generator()))
    a = math.tanh(n)
    return a, -n * n / 2 - 0.5 * math.log(2 * math.pi) - math.log(1 - a * a)


LOW, HIGH = (1.0, -5.0), (2.0, 5.0)  # less than the other for every a


@pytest.mark.parametrize("lagged", [(LOW, HIGH), (HIGH, LOW)])
def test_the_target_is_that_of_the_smaller_lagged_critic(lagged: Any) -> None:
    """y = 2 + ½ (a′ - 5 - ¼ log π); both live critics, 1 and 3, learn it."""
    a, logp = drawn()
    y = 2 + GAMMA * (a - 5 - ALPHA * logp)
    live = critics((0.0, 1.0), (0.0, 3.0))
    loss, told = soft_q_loss(STEP, generator(), of=sac(live, critics(*lagged)))
    assert float(told["target_mean"]) == pytest.approx(y, rel=1e-5)
    assert float(loss.detach()) == pytest.approx((1 - y) ** 2 + (3 - y) ** 2, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, [live.networks.biases[0]])
    assert slope.flatten().tolist() == pytest.approx([2 * (1 - y), 2 * (3 - y)], rel=1e-5)


@pytest.mark.parametrize("live", [(LOW, HIGH), (HIGH, LOW)])
def test_the_policy_climbs_the_smaller_live_critic(live: Any) -> None:
    """¼ log π - (a - 5), and d/dμ = ¼·2a - (1 - a²); the lagged ones would say 0."""
    a, logp = drawn()
    of = sac(critics(*live), critics((0.0, 0.0), (0.0, 0.0)))
    loss, told = soft_policy_loss(STEP, generator(), of=of)
    assert float(told["policy_loss"]) == pytest.approx(ALPHA * logp - (a - 5), rel=1e-5)
    body: Any = of.actor.network.body[0]
    (slope,) = torch.autograd.grad(loss, [body.bias])
    assert float(slope[0]) == pytest.approx(ALPHA * 2 * a - (1 - a * a), rel=1e-4)
