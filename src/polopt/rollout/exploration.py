"""How a policy acts while it is trained off-policy: by its own draws, or with noise added."""

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
    """Who acts; what it remembers from step to step is in the checkpoint."""

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """Actions [N, D] between -1 and 1 for observations [N, O]."""
        ...

    def forget(self, over: NDArray[np.bool_]) -> None:
        """Where an episode is over, [N], the next one begins anew."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        ...


class Drawn:
    """A policy with chance of its own explores by it."""

    def __init__(self, actor: StepActor) -> None:
        self._actor = actor

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """``a ~ π(· | s)``."""
        return self._actor.choose(observations, generator)

    def forget(self, over: NDArray[np.bool_]) -> None:
        """There is nothing to forget."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Noisy:
    """``clip(μ(s) + x, ±1)``, where the noise x begins at 0 in every episode (DDPG)."""

    def __init__(self, actor: StepActor, noise: Noise, count: int, action_size: int) -> None:
        self._actor, self._noise = actor, noise
        self._x = torch.zeros(count, action_size)

    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """In units of half the range of an action."""
        self._x = self._noise(self._x, torch.randn(self._x.shape, generator=generator))
        return np.clip(self._actor.choose(observations, None) + self._x.numpy(), -1.0, 1.0)

    def forget(self, over: NDArray[np.bool_]) -> None:
        """No noise is left of an episode that is over."""
        self._x[torch.from_numpy(over)] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The noise, exactly."""
        return {"noise": [[float(x).hex() for x in row] for row in self._x]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        rows = [[float.fromhex(x) for x in row] for row in state["noise"]]
        self._x = torch.tensor(rows, dtype=torch.float32)
