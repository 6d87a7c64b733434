"""Running statistics: of observations for the policy, of returns for the rewards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polopt.models.network import Normaliser
from polopt.types import Advantages, Experience, Metrics

FARTHEST = 10.0


class Steps(Protocol):
    """The rewards of steps, and where episodes ended."""

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[N, T]."""
        ...

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """[N, T]."""
        ...

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """[N, T]."""
        ...

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N, T]."""
        ...

    @property
    def anew(self) -> bool:
        """Whether episodes begin with these steps."""
        ...


class RewardScale:
    """``clip(r / σ(Σ γᵏ r), ±10)``: rewards by the spread of discounted returns so far.

    OpenAI baselines' VecNormalize; the mean stays, or the sign of a reward would change.
    """

    def __init__(self, count: int, gamma: float) -> None:
        self._gamma = gamma
        self._returns = np.zeros(count)
        self._seen, self._mean, self._squares = 0.0, 0.0, 0.0

    def scaled(self, steps: Steps) -> NDArray[np.float64]:
        """Scaled rewards [N, T]; their steps update the statistics first."""
        if steps.anew:  # earlier episodes may have been abandoned
            self._returns = np.zeros_like(self._returns)
        for t in range(steps.rewards.shape[1]):
            valid = steps.valid[:, t]
            grown = self._returns * self._gamma + steps.rewards[:, t]
            self._returns = np.where(valid, grown, self._returns)
            self._take(self._returns[valid])
            self._returns[steps.terminated[:, t] | steps.truncated[:, t]] = 0.0
        spread = np.sqrt(self._squares / max(self._seen, 1.0) + 1e-8)
        return np.clip(steps.rewards / spread, -FARTHEST, FARTHEST)

    def _take(self, x: NDArray[np.float64]) -> None:
        """Mean and sum of squares of both parts together (Chan et al. 1979)."""
        if not len(x):
            return
        total = self._seen + len(x)
        shift = float(x.mean()) - self._mean
        self._squares += float(x.var()) * len(x) + shift**2 * self._seen * len(x) / total
        self._mean += shift * len(x) / total
        self._seen = total

    def state_dict(self) -> dict[str, Any]:
        """The statistics, exactly."""
        numbers = [self._seen, self._mean, self._squares, *self._returns.tolist()]
        return {"numbers": [float(x).hex() for x in numbers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        self._seen, self._mean, self._squares, *rest = map(float.fromhex, state["numbers"])
        self._returns = np.array(rest)


class Normalisers:
    """The learner of the observation statistics; it comes after those that train on the batch."""

    name = "normalisers"

    def __init__(self, observations: Normaliser | None, rewards: RewardScale | None) -> None:
        self._observations, self._rewards = observations, rewards

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Add the observations of the batch, which normalise the batches after it."""
        if self._observations is not None:
            assert experience.steps is not None
            self._observations.see(experience.steps.observations[experience.mask])
        return {}

    def save(self, directory: Path) -> dict[str, Any]:
        """Return the statistics of rewards; those of observations are saved with the policy."""
        return {} if self._rewards is None else self._rewards.state_dict()

    def load(self, directory: Path, counters: dict[str, Any]) -> None:
        """Restore what :meth:`save` wrote."""
        if self._rewards is not None:
            self._rewards.load_state_dict(counters)
