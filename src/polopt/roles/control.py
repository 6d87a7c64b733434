"""Actor and critic of control: small networks on observations."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.models.network import PolicyNetwork, ValueNetwork
from polopt.roles.policies import categorical, gaussian
from polopt.roles.policies.token import Quantity, Scores
from polopt.roles.scorer import trainable
from polopt.types import StepRows


@dataclass(frozen=True)
class StepActor:
    """A policy that chooses an action for every observation."""

    network: PolicyNetwork

    @property
    def _family(self) -> Any:  # noqa: ANN401 - the functions of a distribution
        return categorical if self.network.made_of.kind == "categorical" else gaussian

    def score(self, rows: StepRows, want: AbstractSet[Quantity]) -> Scores:
        """``logp`` and ``entropy`` [B, T], ``distribution`` [B, T, ...]; differentiable."""
        parameters, family = self.network(rows.observations), self._family
        return Scores(
            logp=family.log_prob(parameters, rows.actions) if "logp" in want else None,
            entropy=family.entropy(parameters) if "entropy" in want else None,
            distribution=family.distribution(parameters) if "distribution" in want else None,
        )

    def divergence(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """``KL(old‖new)`` of two of its distributions, [B, T]."""
        return self._family.divergence(old, new)

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The weights that are trained, by name."""
        return trainable(self.network)

    @torch.no_grad()
    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator | None
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Actions for observations [N, O], and their log-probs [N].

        Drawn by the generator; without one, the most likely.
        """
        parameters = self.network(torch.from_numpy(observations))
        family = self._family
        actions = (
            family.mode(parameters) if generator is None else family.sample(parameters, generator)
        )
        return actions.numpy(), family.log_prob(parameters, actions).numpy()

    def moved(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions as the environment takes them: continuous ones clipped to its bounds."""
        bounds = self.network.made_of
        return np.clip(actions, bounds.low, bounds.high) if bounds.low else actions


@dataclass(frozen=True)
class StepCritic:
    """V of every observation."""

    network: ValueNetwork

    def score(self, rows: StepRows, want: AbstractSet[Quantity]) -> Scores:
        """``values`` [B, T]; differentiable."""
        return Scores(values=self.network(rows.observations))

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The weights that are trained, by name; the statistics are the policy's."""
        return trainable(self.network)

    @torch.no_grad()
    def values(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, T] of observations [B, T, O]."""
        return self.network(observations)
