"""Stages that learn from a replay buffer: acting policy, learners and target networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch.nn import Parameter

from polopt.assembly.chosen import chosen
from polopt.assembly.context import staged
from polopt.assembly.control import ControlContext, examiner, made, policy_network
from polopt.assembly.fits import check_actions
from polopt.assembly.inputs import StageInputs
from polopt.coordination.stage import Learner, Stage
from polopt.coordination.stepwise import ReplaySchedule, StepwiseSource
from polopt.envs.control.interface import Box
from polopt.models.network import ActionValueNetworks, Kind, save_policy
from polopt.objective import pathwise
from polopt.resolution.derived import updates_a_step
from polopt.roles.control import ActionCritics, StepActor
from polopt.rollout.episodes import Playing
from polopt.rollout.exploration import Drawn, Explorer, Noisy
from polopt.rollout.replay import Replay
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Transitions
from polopt.update import Lagged
from polopt.update.single import Loss, SingleStep, Weights

EMPTY = torch.zeros(0)
NO_ADVANTAGES = Advantages(EMPTY, EMPTY, EMPTY)  # the gradient goes through Q instead


def soft_stage(inputs: StageInputs) -> Stage:
    """SAC: critics, policy and temperature, then the target networks, on every batch."""
    of, numbers = _context(inputs, "squashed")
    critics, recipe = _critics(of, count=2), of.recipe
    targets = copy.deepcopy(critics)
    settings, initial = recipe.temperature, recipe.temperature.initial
    assert initial is not None and recipe.credit.gamma is not None, "resolved"
    log_alpha = Parameter(torch.tensor(initial).log())
    entropy = settings.target_entropy
    temperature = pathwise.Temperature(
        log_alpha, chosen("temperature", recipe), -float(numbers) if entropy is None else entropy
    )
    everyone = pathwise.Soft(of.actor, critics, targets, temperature, recipe.credit.gamma)
    groups = [Weights(of.actor.parameters, inputs.update())]
    if settings.loss != "none":
        rate = settings.learning_rate or recipe.update.learning_rate
        groups.append(Weights({"log_alpha": log_alpha}, inputs.update(learning_rate=rate)))
    learners = [
        _critic(of, critics, partial(pathwise.soft_q_loss, of=everyone)),
        _policy(of, partial(pathwise.soft_policy_loss, of=everyone), groups, log_alpha=log_alpha),
        _lagged(of, targets.parameters, critics.parameters),
    ]
    return _stage(of, Drawn(of.actor), learners)


def deterministic_stage(inputs: StageInputs) -> Stage:
    """DDPG: critic, policy, then the target networks of both, on every batch."""
    of, numbers = _context(inputs, "deterministic")
    critics, recipe = _critics(of, count=1), of.recipe
    targets, target_actor = copy.deepcopy(critics), copy.deepcopy(of.actor)
    assert recipe.credit.gamma is not None, "resolved"
    everyone = pathwise.Deterministic(of.actor, critics, target_actor, targets, recipe.credit.gamma)
    learners = [
        _critic(of, critics, partial(pathwise.deterministic_q_loss, of=everyone)),
        _policy(
            of,
            partial(pathwise.deterministic_policy_loss, of=everyone),
            [Weights(of.actor.parameters, inputs.update())],
        ),
        _lagged(
            of,
            {**_under("policy", target_actor.parameters), **_under("critic", targets.parameters)},
            {**_under("policy", of.actor.parameters), **_under("critic", critics.parameters)},
        ),
    ]
    noise = chosen("exploration", recipe)
    return _stage(of, Noisy(of.actor, noise, of.environments.count, numbers), learners)


def _context(inputs: StageInputs, kind: Kind) -> tuple[ControlContext, int]:
    """The context of the stage, and the size of an action."""
    recipe = inputs.recipe
    environments = made(recipe, recipe.episodes.environments)
    action = environments.action
    check_actions(recipe, action)
    assert isinstance(action, Box), "checked"
    actor = StepActor(policy_network(inputs, environments, kind))
    return ControlContext(inputs, environments, actor, None, None), len(action.low)


def _critics(of: ControlContext, count: int) -> ActionCritics:
    generator = torch.Generator().manual_seed(derive(of.recipe.run.seed, "critic"))
    return ActionCritics(ActionValueNetworks(of.actor.network.made_of, count, generator))


def _critic(of: ControlContext, critics: ActionCritics, loss: Loss) -> Learner:
    rate = of.recipe.critic.learning_rate
    weights = Weights(critics.parameters, of.inputs.update(learning_rate=rate))
    return SingleStep(
        loss,
        [weights],
        steps=of.inputs.steps,
        seed=derive(of.recipe.run.seed, of.recipe.name, "critic"),
        name="critic",
        keeps=critics.parameters,
    )


def _policy(
    of: ControlContext, loss: Loss, groups: Sequence[Weights], **beside: Parameter
) -> Learner:
    return SingleStep(
        loss,
        groups,
        steps=of.inputs.steps,
        seed=derive(of.recipe.run.seed, of.recipe.name, "update"),
        name="policy",
        keeps=beside,
    )


def _lagged(
    of: ControlContext, copies: Mapping[str, Parameter], sources: Mapping[str, Parameter]
) -> Learner:
    tau = of.recipe.critic.tau
    assert tau is not None, "resolved"
    return Lagged("target", copies, sources, every=1, rate=tau)


def _under(name: str, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {f"{name}.{key}": one for key, one in parameters.items()}


def _stage(of: ControlContext, explorer: Explorer, learners: Sequence[Learner]) -> Stage:
    recipe, made_of, replay = of.recipe, of.actor.network.made_of, of.recipe.replay
    assert replay.size and replay.start_steps is not None and replay.updates_per_step
    assert recipe.update.batch_size
    buffer = Replay(replay.size, made_of.observation_size, made_of.outputs)
    source = StepwiseSource(
        Playing(of.environments, of.inputs.tell),
        of.actor,
        explorer,
        buffer,
        ReplaySchedule(recipe.update.batch_size, replay.start_steps, replay.updates_per_step),
        seed=derive(recipe.run.seed, recipe.name, "rollout"),
    )
    return staged(
        of.inputs,
        source,
        prepare=_experience,
        credit=lambda _: NO_ADVANTAGES,
        learners=[*learners, buffer],
        save_model=lambda path: save_policy(of.actor.network, path),
        describe=lambda _: ({}, ()),
        evaluate=examiner(recipe, of.actor),
        batches_per_step=int(updates_a_step(recipe)),
    )


def _experience(steps: Transitions) -> Experience:
    return Experience(EMPTY, EMPTY, EMPTY, transitions=steps)
