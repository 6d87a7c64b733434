"""The interface of environments of control: N episodes at once, on arrays.

A transition is the same record whatever the environment does when an episode ends: the
observation to act on next, the true successor (the final observation of an episode that ended),
and two flags that are never confused. Terminated: the task is over, and the value of the successor
is 0. Truncated: a time limit ended the episode, and the value of the successor is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]
Flags = NDArray[np.bool_]
Facts = Mapping[str, NDArray[np.float64]]  # figures [N] by name


@dataclass(frozen=True)
class Discrete:
    """Actions 0 to ``count`` - 1."""

    count: int


@dataclass(frozen=True)
class Box:
    """Actions [D] between ``low`` and ``high``."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


Action = Discrete | Box


@dataclass(frozen=True)
class Transition:
    """One step of each of N environments."""

    observations: NDArray[np.float32]  # [N, O] to act on next
    successors: NDArray[np.float32]  # [N, O] after the step, never those of a reset
    rewards: NDArray[np.float64]  # [N]
    terminated: Flags  # [N]
    truncated: Flags  # [N]
    valid: Flags  # [N] False: the step only reset the environment; in no loss or statistic
    facts: Facts = field(default_factory=dict[str, NDArray[np.float64]])  # where episodes ended


class Environments(Protocol):
    """N environments, each of which begins its next episode by itself."""

    @property
    def count(self) -> int:
        """The number N of environments."""
        ...

    @property
    def observation_size(self) -> int:
        """The length O of an observation."""
        ...

    @property
    def action(self) -> Action:
        """The space of actions."""
        ...

    @property
    def figures(self) -> Collection[str]:
        """Names of the figures of an episode that ended, beside its return."""
        ...

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Begin an episode in each, environment i with the seed ``seed + i``; [N, O]."""
        ...

    def step(self, actions: NDArray[Any]) -> Transition:
        """One step in each: ``actions`` are [N] integers or [N, D] numbers."""
        ...

    def state_dict(self) -> Mapping[str, Any] | None:
        """The state of all environments, for JSON; None: they cannot be resumed."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Restore what :meth:`state_dict` gave; returns the observations to act on, [N, O]."""
        ...
