"""Exploration off-policy: by draws of the policy, or by noise added to its actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.roles.control import StepActor

Noise = Callable[[Tensor, Tensor], Tensor]
"""``(noise [N, D] of the step before, draws of N(0, 1)) -> noise``."""


class Explorer(Protocol):
    """The acting policy with its exploration; its state is in the checkpoint."""

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """Actions [N, D] between -1 and 1 for observations [N, O]."""
        ...

    def forget(self, over: NDArray[np.bool_]) -> None:
        """Reset the state of the environments whose episode ended, [N]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state for resuming."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        ...


class Drawn:
    """A stochastic policy, which explores by its own draws."""

    def __init__(self, actor: StepActor) -> None:
        self._actor = actor

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """``a ~ π(· | s)``."""
        return self._actor.choose(observations, generator)

    def forget(self, over: NDArray[np.bool_]) -> None:
        """Nothing to reset."""

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """No state."""


class Noisy:
    """``clip(μ(s) + x, ±1)``, where the noise x begins at 0 in every episode (DDPG)."""

    def __init__(self, actor: StepActor, noise: Noise, count: int, action_size: int) -> None:
        self._actor, self._noise = actor, noise
        self._x = torch.zeros(count, action_size)

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """Noisy actions [N, D] in [-1, 1], in units of half the range of an action."""
        self._x = self._noise(self._x, torch.randn(self._x.shape, generator=generator))
        return np.clip(self._actor.choose(observations, None) + self._x.numpy(), -1.0, 1.0)

    def forget(self, over: NDArray[np.bool_]) -> None:
        """Set the noise of ended episodes to 0."""
        self._x[torch.from_numpy(over)] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The noise, exactly."""
        return {"noise": [[float(x).hex() for x in row] for row in self._x]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        rows = [[float.fromhex(x) for x in row] for row in state["noise"]]
        self._x = torch.tensor(rows, dtype=torch.float32)
