"""What an environment says of an episode, and whether a time limit cut it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.interface import Box
from polopt.errors import RecipeError
from polopt.models.network import PolicyNetwork, Specification
from polopt.roles.control import StepActor
from polopt.rollout.episodes import EpisodeSource, Playing, described, episode_metrics, played


class Countdown:
    """Ends after as many steps as it drew, 1 to 9, or is cut after 5; tells what it drew."""

    observation_size = 1
    action = Box(-np.ones(1, dtype=np.float32), np.ones(1, dtype=np.float32))
    max_episode_steps = 5

    def start(self, generator: np.random.Generator) -> Any:
        drawn = float(generator.integers(1, 10))
        return np.array([drawn, drawn])

    def observe(self, states: Any) -> Any:
        return states[:, :1].astype(np.float32)

    def advance(self, states: Any, actions: Any) -> Any:
        after = states - np.array([1.0, 0.0])
        return after, np.ones(len(after)), after[:, 0] <= 0

    def facts(self, states: Any) -> Mapping[str, Any]:
        return {"drawn": states[:, 1]}


def actor() -> StepActor:
    made_of = Specification(1, 1, "gaussian", (4,), "tanh", 0.0, False, (-1.0,), (1.0,))
    return StepActor(PolicyNetwork(made_of, torch.Generator().manual_seed(0)))


def test_an_episode_says_what_its_environment_says_of_it() -> None:
    episodes = played(ArrayEnvironments(Countdown(), 4), actor(), seed=0, episodes=10)
    drawn = [episode.facts["drawn"] for episode in episodes]
    assert len(set(drawn)) > 3
    assert [episode.length for episode in episodes] == [min(d, 5) for d in drawn]
    assert [episode.cut for episode in episodes] == [d > 5 for d in drawn]  # an end at 5 is no cut
    figures = described(episodes)
    assert figures["drawn"] == pytest.approx(np.mean(drawn))
    assert figures["reached_limit"] == pytest.approx(np.mean([d > 5 for d in drawn]))


def test_training_tells_it_too_of_the_episodes_that_ended_in_a_batch() -> None:
    source = EpisodeSource(Playing(ArrayEnvironments(Countdown(), 3)), actor(), seed=0, steps=20)
    source.publish(0)
    batch = source.next_batch()
    metrics = episode_metrics(int(batch.valid.sum()), batch.episodes)
    assert metrics["episodes"] == len(batch.episodes) > 10
    assert metrics["episode/drawn"] == pytest.approx(
        np.mean([episode.facts["drawn"] for episode in batch.episodes])
    )
    assert {episode.length for episode in batch.episodes if episode.cut} == {5}


def test_a_batch_tells_an_end_from_a_time_limit() -> None:
    """Countdown sees how many steps are left: over with the last of them, cut with its fifth."""
    source = EpisodeSource(Playing(ArrayEnvironments(Countdown(), 3)), actor(), seed=0, steps=20)
    source.publish(0)
    batch = source.next_batch()
    left = batch.observations[..., 0]
    assert np.array_equal(batch.successors[..., 0], left - 1)  # not where the next one begins
    ages = np.zeros(3)
    for t in range(20):
        ages += 1
        assert batch.terminated[:, t].tolist() == (left[:, t] == 1).tolist()
        assert batch.truncated[:, t].tolist() == (ages == 5).tolist()
        ages[batch.terminated[:, t] | batch.truncated[:, t]] = 0
    assert batch.terminated.sum() > 5
    assert (batch.truncated & ~batch.terminated).sum() > 5


def test_whole_episodes_are_waited_for_no_longer_than_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polopt.rollout.episodes.PATIENCE", 4)
    source = EpisodeSource(Playing(ArrayEnvironments(Countdown(), 8)), actor(), seed=0, steps=None)
    source.publish(0)
    with pytest.raises(RecipeError, match=r"data\.source: an episode has not ended after 4 steps"):
        source.next_batch()
    monkeypatch.setattr("polopt.rollout.episodes.PATIENCE", 5)
    assert source.next_batch().valid.sum(1).max() == 5


def test_environments_that_do_not_repeat_themselves_are_told() -> None:
    def playing(told: list[tuple[str, bool]]) -> Playing:
        def tell(text: str, *, warning: bool = False) -> None:
            told.append((text, warning))

        return Playing(ArrayEnvironments(Countdown(), 2), tell)

    told: list[tuple[str, bool]] = []
    one, other = playing(told), playing(told)
    one.begin(0)
    one.step(np.zeros((2, 1)))
    state = one.state_dict()
    other.load_state_dict(state)
    assert other.begun and np.array_equal(other.seen, one.seen) and not told
    state["seen"][1][0] = (0.5).hex()
    third = playing(told)
    third.load_state_dict(state)
    assert not third.begun
    text = (
        "data.source: the environments do not repeat themselves; their episodes begin anew, and "
        "the run is not the one that it would have been"
    )
    assert told == [(text, True)]
