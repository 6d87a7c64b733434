"""Actions of a batch: stored as they were drawn, with how likely that was, by noise of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.interface import Box
from polopt.models.network import PolicyNetwork, Specification
from polopt.roles.control import StepActor
from polopt.rollout.episodes import EpisodeSource, Playing, Trajectories
from polopt.types import StepRows

COUNT, STEPS, SIZE = 3, 20, 2


class Still:
    """Sees 0 whatever is done, takes numbers between -1 and 1, and remembers them."""

    observation_size = 1
    action = Box(-np.ones(SIZE, dtype=np.float32), np.ones(SIZE, dtype=np.float32))
    max_episode_steps = 1000

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def start(self, generator: np.random.Generator) -> Any:
        return np.zeros(1)

    def observe(self, states: Any) -> Any:
        return states.astype(np.float32)

    def advance(self, states: Any, actions: Any) -> Any:
        self.taken.append(actions.copy())
        return states, np.zeros(len(states)), np.zeros(len(states), dtype=np.bool_)

    def facts(self, states: Any) -> Mapping[str, Any]:
        return {}


def actor(kind: Any) -> StepActor:
    """A new network says 0 of what is 0: the mean is 0, and the spread is 1."""
    made_of = Specification(1, SIZE, kind, (4,), "tanh", 0.0, False, (-1.0,) * 2, (1.0,) * 2)
    return StepActor(PolicyNetwork(made_of, torch.Generator().manual_seed(0)))


def batches(kind: Any, *versions: int, whole: bool = False) -> tuple[list[Trajectories], Still]:
    still = Still()
    if whole:
        still.max_episode_steps = STEPS
    playing = Playing(ArrayEnvironments(still, COUNT))
    source = EpisodeSource(playing, actor(kind), seed=5, steps=None if whole else STEPS)
    found: list[Trajectories] = []
    for version in versions:
        source.publish(version)
        found.append(source.next_batch())
    return found, still


def test_an_action_out_of_bounds_is_stored_as_drawn_with_its_own_log_prob() -> None:
    """The environment is given the nearest it takes; log N(a; 0, 1) of two is -|a|²/2 - log 2π."""
    (batch,), still = batches("gaussian", 0)
    assert (np.abs(batch.actions) > 1).mean() > 0.2  # 32 % of a normal distribution
    squares = (batch.actions.astype(np.float64) ** 2).sum(-1)
    assert batch.logp == pytest.approx(-squares / 2 - math.log(2 * math.pi), abs=1e-5)
    assert np.array_equal(np.stack(still.taken, 1), np.clip(batch.actions, -1, 1))


def test_a_squashed_action_is_stored_before_its_squash() -> None:
    """Log N(u; 0, 1) less log(1 - tanh² u) of both; the environment is given tanh u."""
    (batch,), still = batches("tanh_gaussian", 0)
    u = batch.actions.astype(np.float64)
    expected = -(u**2 / 2 + np.log(1 - np.tanh(u) ** 2)).sum(-1) - math.log(2 * math.pi)
    assert batch.logp == pytest.approx(expected, abs=1e-4)
    assert np.stack(still.taken, 1) == pytest.approx(np.tanh(u), abs=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "tanh_gaussian"])
def test_who_drew_the_actions_says_the_same_of_what_is_stored(kind: Any) -> None:
    """So the ratio of the first optimiser step is 1."""
    (batch,), _ = batches(kind, 0)
    rows = StepRows(torch.from_numpy(batch.observations), torch.from_numpy(batch.actions))
    assert actor(kind).log_probs(rows).numpy() == pytest.approx(batch.logp, abs=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_no_noise_is_drawn_twice(whole: bool) -> None:
    """In no step, environment or batch; a version draws what it drew."""
    found, _ = batches("gaussian", 0, 1, 2, whole=whole)
    drawn = np.stack([batch.actions for batch in found])
    assert drawn.shape == (3, COUNT, STEPS, SIZE)
    assert len(np.unique(drawn)) == drawn.size
    again, _ = batches("gaussian", 1, whole=whole)
    assert np.array_equal(again[0].actions, found[1].actions)
