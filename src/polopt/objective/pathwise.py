"""Losses of off-policy actor-critics: Q-learning critics, policies by the gradient ∂Q/∂a.

Each is ``(steps, generator) -> (loss, metrics)`` once the roles are bound to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.pathwise import (
    ddpg_policy_loss,
    ddpg_target,
    q_loss,
    sac_policy_loss,
    sac_target,
)
from polopt.roles.control import ActionCritics, StepActor
from polopt.types import Transitions

Told = tuple[Tensor, dict[str, Tensor]]
TemperatureLoss = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Temperature:
    """The entropy coefficient α; learned so that the entropy is about ``target_entropy`` nats."""

    log_alpha: torch.nn.Parameter
    loss: TemperatureLoss
    target_entropy: float

    @property
    def alpha(self) -> Tensor:
        """The value of α, without gradient."""
        return self.log_alpha.detach().exp()


@dataclass(frozen=True)
class Soft:
    """The networks of SAC: a squashed policy, two critics and their target networks."""

    actor: StepActor
    critics: ActionCritics
    targets: ActionCritics
    temperature: Temperature
    gamma: float


@dataclass(frozen=True)
class Deterministic:
    """The networks of DDPG: policy and critic, and target networks of both."""

    actor: StepActor
    critics: ActionCritics
    target_actor: StepActor
    targets: ActionCritics
    gamma: float


def soft_q_loss(steps: Transitions, generator: torch.Generator, *, of: Soft) -> Told:
    """Error² of both critics to ``r + γ(1 - terminated)[min Q′(s′, a′) - α log π(a′|s′)]``."""
    with torch.no_grad():
        actions, logp = of.actor.draw(steps.successors, generator)
        q1, q2 = of.targets.values(steps.successors, actions).unbind()
        alpha = of.temperature.alpha
        target = sac_target(steps.rewards, steps.terminated, q1, q2, logp, alpha, of.gamma)
    return _towards(of.critics, steps, target)


def soft_policy_loss(steps: Transitions, generator: torch.Generator, *, of: Soft) -> Told:
    """The policy loss ``E[α log π - min Q]``, plus the temperature loss on the same log-probs.

    The two share no weights: the gradients of the sum are those of each alone.
    """
    actions, logp = of.actor.draw(steps.observations, generator)
    q1, q2 = of.critics.values(steps.observations, actions).unbind()
    temperature, alpha = of.temperature, of.temperature.alpha
    loss = sac_policy_loss(q1, q2, logp, alpha)
    own = temperature.loss(temperature.log_alpha, logp, temperature.target_entropy)
    told = {"entropy": -logp.detach().mean(), "alpha": alpha, "alpha_loss": own.detach()}
    return loss + own, {**told, "policy_loss": loss.detach()}


def deterministic_q_loss(
    steps: Transitions, generator: torch.Generator, *, of: Deterministic
) -> Told:
    """The squared error of the critic to ``r + γ(1 - terminated) Q′(s′, μ′(s′))``."""
    with torch.no_grad():
        actions = of.target_actor.point(steps.successors)
        (q,) = of.targets.values(steps.successors, actions).unbind()
        target = ddpg_target(steps.rewards, steps.terminated, q, of.gamma)
    return _towards(of.critics, steps, target)


def deterministic_policy_loss(
    steps: Transitions, generator: torch.Generator, *, of: Deterministic
) -> Told:
    """The policy loss ``-E[Q(s, μ(s))]``."""
    (q,) = of.critics.values(steps.observations, of.actor.point(steps.observations)).unbind()
    return ddpg_policy_loss(q), {}


def _towards(critics: ActionCritics, steps: Transitions, target: Tensor) -> Told:
    q = critics.values(steps.observations, steps.actions)
    return q_loss(q, target), {"q_mean": q.detach().mean(), "target_mean": target.mean()}
