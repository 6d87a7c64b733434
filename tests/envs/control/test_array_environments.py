"""Built-in environments: trajectories equal to gymnasium's, ends told apart, state that resumes."""

import json
from typing import Any

import numpy as np
import pytest

from polopt.choices.source import ENVIRONMENTS
from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.interface import Box
from polopt.envs.control.pendulum import Pendulum
from polopt.envs.control.registry import BUILTIN, make, watch
from polopt.errors import RecipeError

BOTH = [pytest.param(CartPole, "CartPole-v1", id="cartpole"), (Pendulum, "Pendulum-v1")]


def actions(environments: ArrayEnvironments, rng: np.random.Generator) -> Any:
    kind = environments.action
    if isinstance(kind, Box):
        return rng.uniform(-3, 3, (environments.count, 1)).astype(np.float32)
    return rng.integers(0, 2, environments.count)


@pytest.mark.parametrize(("dynamics", "name"), BOTH)
def test_trajectories_are_those_of_gymnasium(dynamics: type, name: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    ours, rng = ArrayEnvironments(dynamics(), 3), np.random.default_rng(0)
    theirs = [gymnasium.make(name) for _ in range(3)]
    seen = ours.reset(7)
    for i, one in enumerate(theirs):
        assert np.array_equal(seen[i], one.reset(seed=7 + i)[0])
    ends = 0
    for _ in range(600):
        chosen = actions(ours, rng)
        step = ours.step(chosen)
        for i, one in enumerate(theirs):
            observation, reward, terminated, truncated, _ = one.step(chosen[i])
            assert np.array_equal(step.successors[i], observation)
            assert step.rewards[i] == pytest.approx(reward, abs=1e-6)
            assert (step.terminated[i], step.truncated[i]) == (terminated, truncated)
            if terminated or truncated:
                observation = one.reset()[0]
                ends += 1
            assert np.array_equal(step.observations[i], observation)
    assert ends >= 6


def test_a_time_limit_cuts_and_a_fall_ends() -> None:
    balanced = ArrayEnvironments(CartPole(max_episode_steps=3), 2)
    balanced.reset(0)
    for _ in range(2):
        step = balanced.step(np.array([0, 1]))
        assert not step.truncated.any() and not step.terminated.any()
    step = balanced.step(np.array([1, 0]))
    assert step.truncated.all() and not step.terminated.any()
    assert not np.array_equal(step.observations, step.successors)
    falling = ArrayEnvironments(CartPole(), 1)
    falling.reset(0)
    steps = [falling.step(np.array([1])) for _ in range(30)]
    first = next(s for s in steps if s.terminated[0])
    assert not first.truncated[0]
    assert abs(first.successors[0, 2]) > 0.2 > abs(first.observations[0, 2])


@pytest.mark.parametrize("dynamics", [CartPole, Pendulum])
def test_state_that_was_saved_goes_on_as_if_nothing_had_happened(dynamics: type) -> None:
    one, rng = ArrayEnvironments(dynamics(max_episode_steps=20), 4), np.random.default_rng(1)
    one.reset(3)
    moves = [actions(one, rng) for _ in range(60)]
    for move in moves[:17]:
        one.step(move)
    saved = json.loads(json.dumps(one.state_dict()))
    other = ArrayEnvironments(dynamics(max_episode_steps=20), 4)
    other.load_state_dict(saved)
    for move in moves[17:]:
        a, b = one.step(move), other.step(move)
        assert np.array_equal(a.observations, b.observations)
        assert np.array_equal(a.rewards, b.rewards)
        assert np.array_equal(a.truncated, b.truncated)


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    alone, many = ArrayEnvironments(Pendulum(), 1), ArrayEnvironments(Pendulum(), 5)
    assert np.array_equal(alone.reset(9)[0], many.reset(9)[0])
    for _ in range(50):
        step, more = alone.step(np.full((1, 1), 0.5)), many.step(np.full((5, 1), 0.5))
        assert np.array_equal(step.successors[0], more.successors[0])


def test_another_seed_is_another_start_and_the_same_one_the_same() -> None:
    one = ArrayEnvironments(CartPole(), 2)
    first = one.reset(1)
    assert not np.array_equal(first, one.reset(2))
    assert np.array_equal(first, one.reset(1))
    assert not np.array_equal(first[0], first[1])


def test_names_that_a_recipe_knows_are_those_that_are_built_in() -> None:
    assert set(ENVIRONMENTS) == BUILTIN.keys()


def test_a_limit_of_ones_own_cuts_the_episode() -> None:
    for one in (
        make("control:pendulum", 2, {"max_episode_steps": 3}),
        watch("control:pendulum", {"max_episode_steps": 3}).environments,
    ):
        one.reset(0)
        cut = [one.step(np.zeros((one.count, 1))).truncated[0] for _ in range(6)]
        assert cut == [False, False, True] * 2


@pytest.mark.parametrize(
    ("source", "parameters", "told"),
    [
        ("cartpole", {"gravity": 1.0}, ".gravity: unknown; allowed: max_episode_steps"),
        ("cartpole", {"limit": 9}, ".limit: unknown; allowed: max_episode_steps"),
        ("pendulum", {"seconds": 1}, ".seconds: unknown; allowed: max_episode_steps"),
        ("biped", {"presets": "x"}, ".presets: unknown; did you mean preset?"),
        ("biped", {"reward": "x"}, ".reward: unknown; allowed: preset, physics, max_episode_steps"),
        ("cartpole", {"max_episode_steps": 0}, ".max_episode_steps: 0 is not allowed; an integer"),
        ("cartpole", {"max_episode_steps": "a"}, '.max_episode_steps: "a" is not allowed; an int'),
    ],
)  # fmt: skip
def test_a_parameter_that_is_none_is_told(
    source: str, parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError) as error:
        make(f"control:{source}", 1, parameters)
    assert str(error.value).startswith(f"data.parameters{told}")
