"""Rows in control: the same columns, on steps of environments in the place of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.around import Around, Update
from polopt.assembly.chosen import chosen
from polopt.assembly.context import staged
from polopt.assembly.critic import Valued, critic_learner, of_actions
from polopt.assembly.fits import check_actions, check_fits, shape, shape_of_policy
from polopt.assembly.inputs import StageInputs
from polopt.assembly.learners import learner_of_policy
from polopt.choices.roles import reads_values
from polopt.coordination.stage import Learner, Measured, Stage
from polopt.credit import Credit, assign, earned
from polopt.envs.control.interface import Box, Environments
from polopt.envs.control.registry import make, watch
from polopt.errors import RecipeError
from polopt.models.network import (
    Kind,
    PolicyNetwork,
    QNetwork,
    Specification,
    ValueNetwork,
    load_policy,
    save_policy,
)
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.roles.control import StepActionCritic, StepActor, StepCritic
from polopt.rollout.episodes import (
    EpisodeSource,
    Playing,
    Trajectories,
    described,
    episode_metrics,
    played,
)
from polopt.rollout.evaluation import Evaluation, mean_interval
from polopt.rollout.recording import shown
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics, StepRows
from polopt.update import AdaptiveNumber
from polopt.update.natural_step import Divergence
from polopt.update.normalisers import Normalisers, RewardScale

EVALUATED_AT_ONCE = 16  # environments


@dataclass(frozen=True)
class ControlContext:
    """The context of a policy in control: environments, actor and critic."""

    inputs: StageInputs
    environments: Environments
    actor: StepActor
    critic: StepCritic | StepActionCritic | None
    scale: RewardScale | None
    adaptive: Sequence[AdaptiveNumber] = ()  # of the recipe

    @property
    def recipe(self) -> StageRecipe:
        """The resolved recipe of the stage."""
        return self.inputs.recipe

    @property
    def divergence(self) -> Divergence:
        """``KL(old‖new)`` of two distributions of the actor."""
        return self.actor.divergence


def control_stage(inputs: StageInputs) -> Stage:
    """The stage of a row in control."""
    of = control_context(inputs)
    of = replace(of, adaptive=adaptive_numbers(of.recipe, of.actor.log_probs))
    recipe, steps = of.recipe, of.recipe.episodes.steps
    source = EpisodeSource(
        Playing(of.environments, inputs.tell),
        of.actor,
        seed=derive(recipe.run.seed, recipe.name, "rollout"),
        steps=None if recipe.episodes.whole else steps,
    )
    critic = None if of.critic is None else Valued(recipe, of.critic, of.critic)
    learners: list[Learner] = [flattened(learner_of_policy(of, critic))]
    if critic is not None:
        learners.insert(0, flattened(critic_learner(of, critic)))
    learners.extend(of.adaptive)
    learners.append(Normalisers(of.actor.network.normaliser, of.scale))
    return staged(
        inputs,
        source,
        prepare=lambda batch: prepared(of, batch),
        credit=partial(step_advantages, credit=credit_of(recipe, of.adaptive)),
        learners=learners,
        save_model=lambda path: save_policy(of.actor.network, path),
        describe=lambda batch: (episode_metrics(int(batch.valid.sum()), batch.episodes), ()),
        evaluate=examiner(recipe, of.actor),
    )


def control_context(inputs: StageInputs) -> ControlContext:
    """The environments and networks of a stage, with the weights of a checkpoint inside it."""
    recipe = inputs.recipe
    environments = made(recipe, recipe.episodes.environments)
    check_actions(recipe, environments.action)
    network = policy_network(inputs, environments, kind_of(recipe, environments))
    critic = new_critic(recipe, network) if reads_values(flat(recipe)) else None
    gamma = recipe.credit.gamma
    scale = None
    if recipe.episodes.normalise_rewards:
        assert gamma is not None, "resolved"
        scale = RewardScale(environments.count, gamma)
    return ControlContext(inputs, environments, StepActor(network), critic, scale)


def kind_of(recipe: StageRecipe, environments: Environments) -> Kind:
    """The kind of policy that fits the action space."""
    if not isinstance(environments.action, Box):
        return "categorical"
    return "tanh_gaussian" if recipe.network.distribution == "squashed" else "gaussian"


def new_critic(recipe: StageRecipe, policy: PolicyNetwork) -> StepCritic | StepActionCritic:
    """V, or Q where returns or baseline read it; observations are normalised as the policy's."""
    generator = torch.Generator().manual_seed(derive(recipe.run.seed, "critic"))
    if not of_actions(recipe):
        return StepCritic(ValueNetwork(policy.made_of, policy.normaliser, generator))
    return StepActionCritic(QNetwork(policy.made_of, policy.normaliser, generator))


def made(recipe: StageRecipe, count: int | None) -> Environments:
    """The environments of the recipe."""
    assert count is not None, "resolved"
    return make(recipe.data.source, count, recipe.data.parameters)


def policy_network(inputs: StageInputs, environments: Environments, kind: Kind) -> PolicyNetwork:
    """The policy with the weights of checkpoint or start; a new one where there are none.

    Raises:
        RecipeError: the trained policy is for environments of another shape, or of another kind.
    """
    recipe, inside = inputs.recipe, inputs.weights != inputs.start
    if not Path(inputs.weights).is_dir():
        return new_policy(recipe, environments, kind)
    network = load_policy(Path(inputs.weights))
    of = inputs.weights if inside else f"stage {recipe.start}"
    check_fits(shape_of_policy(network.made_of), shape(environments), recipe.data.source, of)
    if recipe.start is None and network.made_of.kind != kind:
        raise RecipeError(
            f"network.distribution: {of} has a {network.made_of.kind} policy, and the recipe "
            f"another, {kind}"
        )
    return network


def new_policy(recipe: StageRecipe, environments: Environments, kind: Kind) -> PolicyNetwork:
    """A new network that fits the environments, initialised by the seed of the run."""
    action, network = environments.action, recipe.network
    assert network.activation is not None, "resolved"
    made_of = Specification(
        observation_size=environments.observation_size,
        outputs=len(action.low) if isinstance(action, Box) else action.count,
        kind=kind,
        hidden=network.hidden,
        activation=network.activation,
        log_std=network.log_std,
        normalise=bool(recipe.episodes.normalise_observations),
        low=tuple(action.low.tolist()) if isinstance(action, Box) else (),
        high=tuple(action.high.tolist()) if isinstance(action, Box) else (),
    )
    generator = torch.Generator().manual_seed(derive(recipe.run.seed, "model"))
    return PolicyNetwork(made_of, generator)


def prepared(of: ControlContext, batch: Trajectories) -> Experience:
    """The function from a batch to tensors, with values and log-probs from before the update."""
    rewards = batch.rewards if of.scale is None else of.scale.scaled(batch)
    steps = StepRows(torch.from_numpy(batch.observations), torch.from_numpy(batch.actions))
    values = next_values = None
    if of.critic is not None:
        seed = derive(of.recipe.run.seed, of.recipe.name, "next action", batch.taken_at)
        generator = torch.Generator().manual_seed(seed)
        values = of.critic.before(steps)
        next_values = of.critic.after(of.actor, torch.from_numpy(batch.successors), generator)
    count = len(batch.valid)
    logp = torch.from_numpy(batch.logp)
    return Experience(
        mask=torch.from_numpy(batch.valid),
        group=torch.arange(count),
        rewards=torch.zeros(count),
        logp_rollout=logp,
        logp_old=logp,
        values=values,
        step_rewards=torch.from_numpy(rewards).float(),
        next_values=next_values,
        terminated=torch.from_numpy(batch.terminated),
        cut=torch.from_numpy(batch.truncated),
        steps=steps,
    )


def credit_of(recipe: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()) -> Credit:
    """The credit columns of a resolved stage; adaptive numbers are read at each batch."""
    return Credit(
        shapers=(earned,),
        returns=chosen("returns", recipe),
        baseline=chosen("baseline", recipe, adaptive),
        normalise=chosen("normalisation", recipe),
    )


def step_advantages(experience: Experience, credit: Credit) -> Advantages:
    """The advantage of every step, without the metrics of groups of responses."""
    result = assign(experience, credit)
    kept = {
        k: v for k, v in result.metrics.items() if k not in ("degenerate_groups", "excluded_rows")
    }
    return replace(result, metrics=kept)


# Fields that are read by the credit stage alone, by no learner: left out of its batches.
READ_BY_CREDIT = dict.fromkeys(("logp_rollout", "step_rewards", "next_values", "terminated", "cut"))


def flattened(learner: Learner) -> Learner:
    """A learner that gets the valid steps as rows of one step each."""

    def update(own: Update, experience: Experience, advantages: Advantages, step: int) -> Measured:
        where = experience.mask.nonzero(as_tuple=True)
        rows = _flat(replace(experience, **READ_BY_CREDIT), where)
        return own(rows, _flat(advantages, where), step)

    return Around(learner, update)


def _flat(record: Any, where: tuple[Tensor, ...]) -> Any:  # noqa: ANN401
    """Fields [B, T] as [M, 1] of the steps at ``where``; fields [B] as the rows they are of."""
    changed: dict[str, Any] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if isinstance(value, StepRows):
            seen, done = value.observations[where][:, None], value.actions[where][:, None]
            changed[one.name] = StepRows(seen, done)
        elif isinstance(value, Tensor):
            changed[one.name] = value[where][:, None] if value.ndim > 1 else value[where[0]]
    return replace(record, **changed)


def examiner(recipe: StageRecipe, actor: StepActor) -> Callable[[bool], Evaluation]:
    """Mean return of the policy's most likely actions, in environments of their own.

    Before and after training, the first of these episodes is also recorded step by step.
    """
    count = recipe.evaluation.episodes
    environments = made(recipe, min(count, EVALUATED_AT_ONCE))
    seed = derive(recipe.run.seed, "evaluation") % 2**31

    def evaluate(labelled: bool) -> Evaluation:
        episodes = played(environments, actor, seed=seed, episodes=count)
        totals = [episode.total for episode in episodes]
        metrics: Metrics = {
            "return_mean": float(np.mean(totals)),
            "return_std": float(np.std(totals)),
            **described(episodes),
        }
        watched = [watch(recipe.data.source, recipe.data.parameters)] if labelled else []
        lines = [shown(one, actor, seed=seed) for one in watched]
        intervals = {"return_mean": mean_interval(totals)} if count > 1 else {}
        return Evaluation(metrics, intervals, lines)

    return evaluate
