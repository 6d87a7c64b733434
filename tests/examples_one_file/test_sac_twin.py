"""examples/one_file/sac.py and the library's row take the same steps, bit for bit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from one_file import imported, needs
from polopt.assembly.chosen import chosen
from polopt.assembly.replay import NO_ADVANTAGES, _experience
from polopt.envs.control.pendulum import Pendulum
from polopt.models.network import ActionValueNetworks, PolicyNetwork, Specification
from polopt.objective.pathwise import Soft, Temperature, soft_policy_loss, soft_q_loss
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.roles.control import ActionCritics, StepActor
from polopt.seeding import derive
from polopt.types import Transitions
from polopt.update import Lagged
from polopt.update.single import SingleStep, Weights

twin: Any = imported("sac")
CONFIG = twin.Config(hidden=8, batch=16, rate=3e-3, alpha=0.5, tau=0.05)
ROW = resolve(
    load(
        {
            "algorithm": "sac",
            "model": {"path": "builtin:mlp"},
            "data": {"source": "control:pendulum"},
            "network": {"hidden": [CONFIG.hidden] * 2},
            "update": {"learning_rate": CONFIG.rate, "batch_size": CONFIG.batch},
            "critic": {"learning_rate": CONFIG.rate, "tau": CONFIG.tau},
            "temperature": {"initial": CONFIG.alpha},
        }
    )
).stages[0]


pytestmark = pytest.mark.usefixtures("one_thread")


def library(seed: int) -> tuple[Soft, list[Any]]:
    """The roles with the weights of one seed, and the learners of the row."""
    assert ROW.network.activation is not None and ROW.credit.gamma is not None
    made_of = Specification(
        3, 1, "squashed", ROW.network.hidden, ROW.network.activation, 0.0, False, (-2.0,), (2.0,)
    )
    dice = torch.Generator().manual_seed(seed)
    actor = StepActor(PolicyNetwork(made_of, dice))
    critics = ActionCritics(ActionValueNetworks(made_of, 2, dice))
    targets = ActionCritics(ActionValueNetworks(made_of, 2, torch.Generator()))
    targets.networks.load_state_dict(critics.networks.state_dict())
    log_alpha = torch.nn.Parameter(torch.tensor(CONFIG.alpha).log())
    temperature = Temperature(log_alpha, chosen("temperature", ROW), CONFIG.target_entropy)
    of = Soft(actor, critics, targets, temperature, ROW.credit.gamma)
    groups = [Weights(actor.parameters, ROW.update), Weights({"log_alpha": log_alpha}, ROW.update)]
    return of, [
        SingleStep(
            partial(soft_q_loss, of=of),
            [Weights(critics.parameters, ROW.update)],
            steps=40,
            seed=7,
            name="critic",
        ),
        SingleStep(partial(soft_policy_loss, of=of), groups, steps=40, seed=8, name="policy"),
        Lagged("target", targets.parameters, critics.parameters, every=1, rate=CONFIG.tau),
    ]


def drawn(step: int) -> Transitions:
    """Steps of nobody; where nothing follows, the successor must not be read."""
    dice = torch.Generator().manual_seed(step)
    table = torch.randn(CONFIG.batch, 9, generator=dice)
    table[:, 3] = table[:, 3].tanh()
    table[:, 8] = (torch.rand(CONFIG.batch, generator=dice) < 0.3).float()
    return Transitions(table, 3, 1)


def test_twin_and_library_take_the_same_steps() -> None:
    ours = twin.Learner(CONFIG, torch.Generator().manual_seed(5))
    of, learners = library(5)
    start = [p.detach().clone() for p in ours.policy.parameters()]
    for step in range(40):
        batch = drawn(step)
        dice = [torch.Generator().manual_seed(derive(seed, "draw", step)) for seed in (7, 8)]
        parts = (batch.observations, batch.actions, batch.successors, batch.rewards)
        ours.learn(twin.Batch(*parts, batch.terminated), tuple(dice))
        for learner in learners:
            learner.update(_experience(batch), NO_ADVANTAGES, step)
        for mine, theirs in (
            (ours.policy.parameters(), of.actor.network.parameters()),
            (ours.critics.parameters(), of.critics.networks.parameters()),
            (ours.targets.parameters(), of.targets.networks.parameters()),
            ([ours.log_alpha], [of.temperature.log_alpha]),
        ):
            for p, q in zip(mine, theirs, strict=True):
                assert torch.equal(p, q), f"after step {step}"
    moved = ours.policy.parameters()
    assert all(not torch.equal(p, q) for p, q in zip(moved, start, strict=True))
    assert float(ours.log_alpha.detach()) != pytest.approx(math.log(CONFIG.alpha))


def test_the_pendulum_of_the_twin_is_the_library_s() -> None:
    dynamics, dice = Pendulum(), torch.Generator().manual_seed(1)
    state = twin.start(dice)
    states = np.array([[state.angle, state.speed]])
    for action in (2 * torch.rand(300, generator=dice, dtype=torch.float64) - 1).tolist():
        assert dynamics.observe(states)[0] == pytest.approx(twin.observe(state).numpy(), abs=1e-6)
        state, reward = twin.move(state, action)
        states, rewards, over = dynamics.advance(states, np.array([[2.0 * action]]))
        assert rewards[0] == pytest.approx(reward) and not over.any()
    assert dynamics.max_episode_steps == twin.LIMIT


def test_the_twin_stands_alone() -> None:
    assert needs("sac") == {"torch"}


def test_the_twin_runs(capsys: pytest.CaptureFixture[str]) -> None:
    twin.main(twin.Config(hidden=8, batch=4, steps=1000, random_steps=980))
    out = capsys.readouterr().out
    assert "  1000" in out and "seconds" in out
