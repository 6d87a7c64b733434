"""N copies of one environment as rows of an array, stepped together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.interface import Action, Facts, Flags, Transition
from polopt.errors import RecipeError
from polopt.recipe.messages import shown

States = NDArray[np.float64]  # [N, S]


class Dynamics(Protocol):
    """An environment as functions of its state."""

    @property
    def observation_size(self) -> int:
        """The length O of an observation."""
        ...

    @property
    def action(self) -> Action:
        """The space of actions."""
        ...

    @property
    def max_episode_steps(self) -> int:
        """The steps after which an episode is truncated."""
        ...

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """The first state of an episode, [S]."""
        ...

    def observe(self, states: States) -> NDArray[np.float32]:
        """The observations of the states, [N, O]."""
        ...

    def advance(
        self, states: States, actions: NDArray[Any]
    ) -> tuple[States, NDArray[np.float64], Flags]:
        """States after a step, rewards [N], and where the episode is over."""
        ...

    def facts(self, states: States) -> Facts:
        """Figures of the episode so far, beside its return, by name."""
        ...


def check_limit(steps: object) -> None:
    """Refuse a time limit that is no positive integer.

    Raises:
        RecipeError: anything but a positive integer.
    """
    if type(steps) is not int or steps < 1:  # a boolean is an int, too
        raise RecipeError(
            f"data.parameters.max_episode_steps: {shown(steps)} is not allowed; an integer >= 1"
        )


class ArrayEnvironments:
    """N episodes of one dynamics; each draws its starts from a generator of its own."""

    def __init__(self, dynamics: Dynamics, count: int) -> None:
        self._dynamics, self._count = dynamics, count
        self._generators = [np.random.default_rng(i) for i in range(count)]
        self._states: States = np.zeros((count, 0))
        self._reached = self._states
        self._ages = np.zeros(count, dtype=np.int64)

    @property
    def count(self) -> int:
        """The number N of environments."""
        return self._count

    @property
    def observation_size(self) -> int:
        """The length O of an observation."""
        return self._dynamics.observation_size

    @property
    def action(self) -> Action:
        """The space of actions."""
        return self._dynamics.action

    @property
    def figures(self) -> Collection[str]:
        """Names of the figures of an episode that ended."""
        first = self._dynamics.start(np.random.default_rng(0))
        with np.errstate(invalid="ignore"):  # means over no steps yet: only names are wanted
            return self._dynamics.facts(first[None]).keys()

    @property
    def reached(self) -> States:
        """The states that the last step led to, [N, S]; of an episode that ended, its last one."""
        return self._reached

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Begin an episode in each, environment i with the seed ``seed + i``."""
        self._generators = [np.random.default_rng(seed + i) for i in range(self._count)]
        self._states = np.stack([self._dynamics.start(g) for g in self._generators])
        self._reached = self._states
        self._ages = np.zeros(self._count, dtype=np.int64)
        return self._dynamics.observe(self._states)

    def step(self, actions: NDArray[Any]) -> Transition:
        """One step in each; where an episode ended, the next one begins at once."""
        states, rewards, terminated = self._dynamics.advance(self._states, actions)
        self._reached = states
        self._ages += 1
        truncated = self._ages >= self._dynamics.max_episode_steps
        successors = self._dynamics.observe(states)
        observations, facts = successors, dict[str, NDArray[np.float64]]()
        if (ended := terminated | truncated).any():
            facts = {**self._dynamics.facts(states)}
            states = states.copy()
            for index in ended.nonzero()[0]:
                states[index] = self._dynamics.start(self._generators[index])
            self._ages[ended] = 0
            observations = successors.copy()
            observations[ended] = self._dynamics.observe(states[ended])
        self._states = states
        valid = np.ones_like(terminated)
        return Transition(observations, successors, rewards, terminated, truncated, valid, facts)

    def state_dict(self) -> Mapping[str, Any]:
        """States, ages and generators, exactly."""
        return {
            "states": [[float(x).hex() for x in row] for row in self._states],
            "ages": self._ages.tolist(),
            "generators": [g.bit_generator.state for g in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Restore what :meth:`state_dict` gave."""
        self._states = np.array([[float.fromhex(x) for x in row] for row in state["states"]])
        self._ages = np.array(state["ages"], dtype=np.int64)
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        return self._dynamics.observe(self._states)
