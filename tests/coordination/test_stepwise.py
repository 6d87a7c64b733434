"""Acting for a replay buffer: chance is new in every step and version, and ends are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from polopt.coordination.stepwise import ReplaySchedule, StepwiseSource
from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.interface import Box
from polopt.models.network import PolicyNetwork, Specification
from polopt.roles.control import StepActor
from polopt.rollout.episodes import Playing
from polopt.rollout.exploration import Drawn
from polopt.rollout.replay import Replay
from polopt.types import Transitions

COUNT = 2


class Clock:
    """Sees how many steps its episode has taken; cut after 5, or over after 3 where it is short."""

    observation_size = 1
    action = Box(-np.ones(1, dtype=np.float32), np.ones(1, dtype=np.float32))
    max_episode_steps = 5

    def start(self, generator: np.random.Generator) -> Any:
        return np.array([0.0, float(generator.integers(2))])

    def observe(self, states: Any) -> Any:
        return states[:, :1].astype(np.float32)

    def advance(self, states: Any, actions: Any) -> Any:
        after = states + np.array([1.0, 0.0])
        return after, after[:, 0], (after[:, 0] == 3) & (after[:, 1] == 1)

    def facts(self, states: Any) -> Mapping[str, Any]:
        return {}


class Noting(Replay):
    """A buffer that also draws a number of its own whenever it is drawn from."""

    def __init__(self) -> None:
        super().__init__(500, 1, 1)
        self.noted: list[float] = []

    def draw(self, count: int, generator: np.random.Generator) -> Transitions:
        self.noted.append(float(generator.random()))
        return super().draw(count, generator)


def source(start_steps: int = 0) -> tuple[StepwiseSource, Noting]:
    made_of = Specification(1, 1, "squashed", (), "tanh", 0.0, False, (-1.0,), (1.0,))
    network = PolicyNetwork(made_of, torch.Generator().manual_seed(0))
    for weight in network.parameters():
        weight.data.zero_()  # the same distribution in every state
    who, replay = StepActor(network), Noting()
    playing = Playing(ArrayEnvironments(Clock(), COUNT))
    turns = ReplaySchedule(batch_size=4, start_steps=start_steps, updates_per_step=1.0)
    return StepwiseSource(playing, who, Drawn(who), replay, turns, seed=3), replay


def stored(replay: Replay) -> Transitions:
    """All of it, in the order in which it was stored."""

    class InOrder:
        def integers(self, filled: int, size: int) -> Any:
            return np.arange(filled)

    order: Any = InOrder()
    return Replay.draw(replay, replay.filled, order)


def test_no_action_is_drawn_twice() -> None:
    """The first 20 steps are uniform, those after them the policy's; each version has its own."""
    acting, replay = source(start_steps=20)
    for version in range(5):
        acting.publish(version)
        for _ in range(6):
            acting.next_batch()
    actions = stored(replay).actions[:, 0]
    assert len(actions) == 50
    assert len(actions.unique()) == 50


def test_no_batch_is_drawn_by_the_numbers_of_another() -> None:
    acting, replay = source()
    for version in range(3):
        acting.publish(version)
        for _ in range(4):
            acting.next_batch()
    assert len(set(replay.noted)) == 12


def test_ends_are_stored_as_ends_and_time_limits_are_not() -> None:
    """The true successor follows either; a step says by its number which it was."""
    acting, replay = source()
    for _ in range(80):
        acting.next_batch()
    steps = stored(replay)
    before, after = steps.observations[:, 0], steps.successors[:, 0]
    assert torch.equal(after, before + 1)  # and not where the next episode begins
    assert torch.equal(steps.rewards, after)
    assert set(before.tolist()) == {0, 1, 2, 3, 4}
    assert not steps.terminated[after != 3].any()  # 5: a time limit
    ends = steps.terminated[after == 3]
    assert ends.any() and not ends.all()


def test_steps_are_reported_once_also_after_a_resume() -> None:
    acting, replay = source(start_steps=10)
    acting.next_batch()
    assert acting.stats()["steps"] == 12  # of both environments: 10 and one for an optimiser step
    again, buffer = source(start_steps=10)
    again.load_state_dict(acting.state_dict())
    buffer.__dict__.update(replay.__dict__)
    again.publish(1)
    again.next_batch()
    assert again.stats()["steps"] == 0  # the second optimiser step was paid for before
    again.next_batch()
    assert again.stats()["steps"] == 2
