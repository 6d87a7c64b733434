"""Actor and critics of control: whoever is asked what it would do remembers nothing of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polopt.models.network import PolicyNetwork, QNetwork, Specification, ValueNetwork
from polopt.roles.control import StepActionCritic, StepActor, StepCritic
from polopt.roles.policies import tanh_gaussian
from polopt.types import StepRows

GENERATOR = torch.Generator()


def roles(kind: Any) -> tuple[StepActor, StepCritic, StepActionCritic]:
    """Who all look through the same statistics, which have seen something."""
    made_of = Specification(3, 2, kind, (4,), "tanh", 0.0, True, (-1.0,) * 2, (1.0,) * 2)
    policy = PolicyNetwork(made_of, GENERATOR.manual_seed(0))
    assert policy.normaliser is not None
    policy.normaliser.see(torch.tensor([[0.0, 1.0, 5.0], [4.0, 1.0, 7.0]]))
    value = StepCritic(ValueNetwork(made_of, policy.normaliser, GENERATOR))
    return (
        StepActor(policy),
        value,
        StepActionCritic(QNetwork(made_of, policy.normaliser, GENERATOR)),
    )


def seen() -> Tensor:
    return 3.0 + 5.0 * torch.randn(6, 4, 3, generator=GENERATOR.manual_seed(1))


@pytest.mark.parametrize("kind", ["categorical", "gaussian", "tanh_gaussian"])
def test_looking_leaves_weights_and_statistics_as_they_are(kind: Any) -> None:
    """To act, to be evaluated, to be asked: only who learns may change what they are."""
    actor, critic, action_critic = roles(kind)
    networks = (actor.network, critic.network, action_critic.network)
    before = [{k: v.clone() for k, v in one.state_dict().items()} for one in networks]
    assert before[0]["normaliser.count"] == 2
    rows, flat = seen(), np.random.default_rng(0).normal(3.0, 5.0, (9, 3)).astype(np.float32)
    discrete = kind == "categorical"
    done = torch.zeros(6, 4, dtype=torch.int64) if discrete else torch.zeros(6, 4, 2)
    steps = StepRows(rows, done)
    actor.choose(flat, None)  # as evaluation does
    actor.choose(flat, GENERATOR)
    actor.act(flat, GENERATOR)
    actor.drawn(rows, GENERATOR)
    actor.score(steps, {"logp", "entropy", "distribution"})
    actor.log_probs(steps)
    for one in (critic, action_critic):
        one.before(steps)
        one.after(actor, rows, GENERATOR)
        one.score(steps, {"values"})
    for network, state in zip(networks, before, strict=True):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_all_of_them_see_what_was_seen_less_its_mean_over_its_spread() -> None:
    """Of 0, 4 and 1, 1 and 5, 7: means 2, 1, 6 and spreads 2, 0, 1; a spread of 0 clips at ±10."""
    for network in (role.network for role in roles("gaussian")):
        given: list[Tensor] = []
        body: Any = network.body
        body.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[0]))
        observations = torch.tensor([[4.0, 1.0, 6.0], [2.0, 2.0, 4.0]])
        if isinstance(network, QNetwork):
            network(observations, torch.zeros(2, 2))
        else:
            network(observations)
        expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 10.0, -2.0]])
        torch.testing.assert_close(given[0][:, :3], expected)


def test_what_follows_is_worth_what_the_policy_expects_and_not_its_best_action() -> None:
    """Chances of ¼ and ¾, worth 8 and 4: 2 + 3."""
    actor, _, critic = roles("categorical")
    for network, says in ((actor.network, [0.0, math.log(3.0)]), (critic.network, [8.0, 4.0])):
        last: Any = network.body[-1]  # the same of every observation
        torch.nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.tensor(says))
    torch.testing.assert_close(critic.after(actor, seen(), GENERATOR), torch.full((6, 4), 5.0))


def test_the_entropy_of_a_squashed_policy_follows_its_spread() -> None:
    """Around 0, where tanh is the identity, it is that of a Gaussian: two nats for a factor e²."""
    narrow, wider = (tanh_gaussian.entropy(torch.tensor([[0.0, s]])).item() for s in (-5.0, -3.0))
    assert wider - narrow == pytest.approx(2.0, abs=0.01)
    assert narrow == pytest.approx(0.5 * math.log(2 * math.pi * math.e) - 5.0, abs=0.01)
