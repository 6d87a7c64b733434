"""Actor and critic of control: small networks on observations."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.models.network import (
    ActionValueNetworks,
    PolicyNetwork,
    QNetwork,
    ValueNetwork,
)
from polopt.roles.policies import categorical, deterministic, gaussian, squashed, tanh_gaussian
from polopt.roles.policies.token import Outputs, Quantity, entropy_as_wanted
from polopt.roles.policies.trunk import Computing
from polopt.roles.scorer import measured, trainable
from polopt.types import StepRows

FAMILIES: Mapping[str, Any] = {
    "categorical": categorical,
    "gaussian": gaussian,
    "tanh_gaussian": tanh_gaussian,
    "squashed": squashed,
    "deterministic": deterministic,
}


@dataclass(frozen=True)
class StepActor:
    """A policy that chooses an action for every observation."""

    network: PolicyNetwork
    how: Computing = field(default_factory=Computing)

    @property
    def _family(self) -> Any:  # noqa: ANN401 - the functions of a distribution
        return FAMILIES[self.network.made_of.kind]

    def score(self, rows: StepRows, want: AbstractSet[Quantity]) -> Outputs:
        """``logp`` and ``entropy`` [B, T], ``distribution`` [B, T, ...]; differentiable."""
        parameters, family = self.network(rows.observations), self._family
        return Outputs(
            logp=family.log_prob(parameters, rows.actions) if "logp" in want else None,
            entropy=entropy_as_wanted(want, family.entropy, parameters),
            distribution=family.distribution(parameters) if "distribution" in want else None,
        )

    @torch.no_grad()
    def drawn(self, observations: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A drawn action for each of the observations [..., O]."""
        return self._family.sample(self.network(observations), generator)

    @torch.no_grad()
    def probabilities(self, observations: torch.Tensor) -> torch.Tensor:
        """Probabilities of the discrete actions, [..., n], for observations [..., O]."""
        return self.network(observations).softmax(-1)

    def log_probs(self, rows: StepRows) -> torch.Tensor:
        """Log π of every step, [B, T], without gradient."""
        return measured(self, rows, "logp")

    def divergence(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """``KL(old‖new)`` of two distributions of the policy, [B, T]."""
        return self._family.divergence(old, new)

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        return trainable(self.network)

    @torch.no_grad()
    def act(
        self, observations: NDArray[np.float32], generator: torch.Generator
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Actions for observations [N, O], drawn by the generator, and their log-probs [N]."""
        parameters = self.network(torch.from_numpy(observations))
        actions = self._family.sample(parameters, generator)
        return actions.numpy(), self._family.log_prob(parameters, actions).numpy()

    @torch.no_grad()
    def choose(
        self, observations: NDArray[np.float32], generator: torch.Generator | None
    ) -> NDArray[Any]:
        """Actions for observations [N, O]: drawn; without a generator, the most likely."""
        parameters = self.network(torch.from_numpy(observations))
        family = self._family
        if generator is None:
            return family.mode(parameters).numpy()
        return family.sample(parameters, generator).numpy()

    def draw(
        self, observations: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [B, D] and their log-probs [B], differentiable, of a squashed policy."""
        return squashed.draw(self.network(observations), generator)

    def point(self, observations: torch.Tensor) -> torch.Tensor:
        """The actions [B, D] of a deterministic policy, differentiable."""
        return deterministic.mode(self.network(observations))

    def moved(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions as the environment takes them: continuous ones within its bounds."""
        bounds = self.network.made_of
        return self._family.moved(actions, bounds.low, bounds.high) if bounds.low else actions


@dataclass(frozen=True)
class StepCritic:
    """V of every observation."""

    network: ValueNetwork
    how: Computing = field(default_factory=Computing)

    def score(self, rows: StepRows, want: AbstractSet[Quantity]) -> Outputs:
        """``values`` [B, T]; differentiable."""
        return Outputs(values=self.network(rows.observations))

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name; the statistics are the policy's."""
        return trainable(self.network)

    @torch.no_grad()
    def before(self, rows: StepRows) -> torch.Tensor:
        """V(sₜ), [B, T]."""
        return self.network(rows.observations)

    @torch.no_grad()
    def after(
        self, actor: StepActor, successors: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """V(sₜ₊₁) of the true successors, [B, T]."""
        return self.network(successors)


@dataclass(frozen=True)
class StepActionCritic:
    """Q of every observation and action."""

    network: QNetwork
    how: Computing = field(default_factory=Computing)

    def score(self, rows: StepRows, want: AbstractSet[Quantity]) -> Outputs:
        """``values`` [B, T] of the actions taken; ``action_values`` [B, T, n] of all."""
        every = self.network.every(rows.observations) if "action_values" in want else None
        return Outputs(
            values=self.network(rows.observations, rows.actions) if "values" in want else None,
            action_values=every,
        )

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        return trainable(self.network)

    @torch.no_grad()
    def before(self, rows: StepRows) -> torch.Tensor:
        """Q(sₜ, aₜ), [B, T]."""
        return self.network(rows.observations, rows.actions)

    @torch.no_grad()
    def after(
        self, actor: StepActor, successors: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """``Σ_a π(a|s′) Q(s′, a)``, [B, T]; for continuous actions Q of one drawn action."""
        if not self.network.discrete:
            return self.network(successors, actor.drawn(successors, generator))
        return (actor.probabilities(successors) * self.network.every(successors)).sum(-1)


@dataclass(frozen=True)
class ActionCritics:
    """An ensemble of K critics Q(s, a), each a network of its own."""

    networks: ActionValueNetworks

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The trained weights by name."""
        return trainable(self.networks)

    def values(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q [K, B] of observations [B, O] and actions [B, D]; differentiable."""
        return self.networks(observations, actions)
