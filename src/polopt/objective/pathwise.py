"""Losses whose gradient goes through the action: critics that learn Q, policies that climb it.

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
    """What entropy is worth, α; learned so that the policy has about ``target_entropy`` nats."""

    log_alpha: torch.nn.Parameter
    loss: TemperatureLoss
    target_entropy: float

    @property
    def alpha(self) -> Tensor:
        """Without gradient."""
        return self.log_alpha.detach().exp()


@dataclass(frozen=True)
class Soft:
    """Who takes part in SAC: a squashed policy, two critics and their lagged copies."""

    actor: StepActor
    critics: ActionCritics
    targets: ActionCritics
    temperature: Temperature
    gamma: float


@dataclass(frozen=True)
class Deterministic:
    """Who takes part in DDPG: policy and critic, and lagged copies of both."""

    actor: StepActor
    critics: ActionCritics
    target_actor: StepActor
    targets: ActionCritics
    gamma: float


def soft_q_loss(steps: Transitions, generator: torch.Generator, *, of: Soft) -> Told:
    """Both critics towards ``r + γ(1 - terminated)[min Q′(s′, a′) - α log π(a′|s′)]``, a′ drawn."""
    with torch.no_grad():
        actions, logp = of.actor.draw(steps.successors, generator)
        q1, q2 = of.targets.values(steps.successors, actions).unbind()
        alpha = of.temperature.alpha
        target = sac_target(steps.rewards, steps.terminated, q1, q2, logp, alpha, of.gamma)
    return _towards(of.critics, steps, target)


def soft_policy_loss(steps: Transitions, generator: torch.Generator, *, of: Soft) -> Told:
    """The policy by ``E[α log π - min Q]``, and the temperature by the same log-probs.

    The two share no weights: in one sum each has the gradient that it would have alone.
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
    """The critic towards ``r + γ(1 - terminated) Q′(s′, μ′(s′))``."""
    with torch.no_grad():
        actions = of.target_actor.point(steps.successors)
        (q,) = of.targets.values(steps.successors, actions).unbind()
        target = ddpg_target(steps.rewards, steps.terminated, q, of.gamma)
    return _towards(of.critics, steps, target)


def deterministic_policy_loss(
    steps: Transitions, generator: torch.Generator, *, of: Deterministic
) -> Told:
    """The policy by ``-E[Q(s, μ(s))]``."""
    (q,) = of.critics.values(steps.observations, of.actor.point(steps.observations)).unbind()
    return ddpg_policy_loss(q), {}


def _towards(critics: ActionCritics, steps: Transitions, target: Tensor) -> Told:
    q = critics.values(steps.observations, steps.actions)
    return q_loss(q, target), {"q_mean": q.detach().mean(), "target_mean": target.mean()}
