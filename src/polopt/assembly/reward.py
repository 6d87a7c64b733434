"""Reward models of a stage: their rewards, their agreement with labels, their learners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.assembly.around import every
from polopt.coordination.stage import Learner
from polopt.errors import ModelError
from polopt.math.preference import has_pair, pair_accuracy
from polopt.models import LanguageModel
from polopt.objective.preference import (
    PreferenceObjective,
    PreferenceTerms,
    preference_terms,
    reward_model_loss,
    sigmoid,
)
from polopt.recipe import Reward
from polopt.recipe.contradictions import reward_name, rewards_by_field
from polopt.roles import Critic, reward_of, step_ends, step_rewards_of
from polopt.roles.policies.token import Outputs
from polopt.rollout.rewarding import RewardFunction
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss

if TYPE_CHECKING:
    from polopt.assembly.context import StageContext, StageInputs

RANKING = PreferenceObjective(sigmoid(beta=1.0), beta=1.0)  # InstructGPT 2203.02155, Eq. 1


@dataclass(frozen=True)
class RewardModel:
    """A reward of the recipe that a reward model computes."""

    name: str
    settings: Reward
    role: Critic

    def function(self, device: torch.device) -> RewardFunction:
        """The rewards of responses, or of their steps."""
        tokenizer, separator = self.role.scalar_model.tokenizer, self.settings.step_separator
        pad_id = cast(int, tokenizer.pad_token_id)
        if not self.settings.per_token:
            return reward_of(self.role, pad_id=pad_id, device=device)

        def ends(ids: Sequence[int] | NDArray[np.int64]) -> list[bool]:
            return step_ends([str(tokenizer.decode([int(token)])) for token in ids], separator)

        return step_rewards_of(self.role, pad_id=pad_id, device=device, ends=ends)


def reward_models(inputs: StageInputs, policy: LanguageModel) -> tuple[RewardModel, ...]:
    """The reward models of a stage; one that is never refreshed is frozen.

    Raises:
        ModelError: a model that cannot be loaded, has too small a vocabulary or context, or
            has a head of zeros that is never trained.
    """
    named = () if inputs.reward is not None else rewards_by_field(inputs.recipe)
    return tuple(_loaded(inputs, policy, where, reward) for where, reward in named if reward.model)


def _loaded(inputs: StageInputs, policy: LanguageModel, where: str, reward: Reward) -> RewardModel:
    assert reward.model is not None
    model = inputs.reader(f"{where}.model", reward.model, policy)
    if not reward.refresh_every:
        if not model.head.weight.any():
            raise ModelError(
                f"{where}.model: {reward.model!r} has no head of its own, so that every response "
                "would earn 0; a model that stage reward_model has trained, or refresh_every"
            )
        model.model.requires_grad_(False)
    return RewardModel(reward_name(reward), reward, Critic(model, autocast=inputs.autocast))


def agreement(of: StageContext, experience: Experience) -> Metrics:
    """The share of the pairs of a batch that each reward model orders as the labels do.

    By the rewards that it gave, and so before it learns from the batch: whether it is still right
    on what the policy writes now. Nothing where no pair is labelled.
    """
    metrics: Metrics = {}
    for model in of.reward_models:
        given, labels = experience.parts.get(model.name), labels_of(of, model, experience)
        if given is None or labels is None:
            continue
        ranks = torch.where(given.isnan(), torch.nan, -labels)
        usable = has_pair(ranks, experience.group)
        if usable.any():
            right = pair_accuracy(given, ranks, experience.group)[usable].mean()
            metrics[f"agreement/{model.name}"] = float(right)
    return metrics


def labels_of(of: StageContext, model: RewardModel, experience: Experience) -> Tensor | None:
    """The labels that rank the responses of a group, [B], higher is better; NaN: no label."""
    names = [reward_name(reward) for reward in of.recipe.rewards]
    labels = model.settings.labels
    return None if labels is None else experience.parts.get(of.rewards[names.index(labels)].name)


def refreshed(of: StageContext) -> Iterator[Learner]:
    """A learner for each reward model that is refreshed."""
    for model in of.reward_models:
        if model.settings.refresh_every:
            yield every(model.settings.refresh_every, _learner(of, model))


def _learner(of: StageContext, model: RewardModel) -> Learner:
    """The learner of a reward model: one optimiser step of the ranking loss on the rollouts."""
    recipe, place = of.recipe, of.reward_models.index(model)

    def terms(experience: Experience, _: Advantages) -> PreferenceTerms:
        labels = labels_of(of, model, experience)
        nobody = torch.full_like(experience.rewards, torch.nan)
        return preference_terms(replace(experience, rewards=nobody if labels is None else labels))

    def value(outputs: Outputs, terms: PreferenceTerms) -> tuple[Tensor, dict[str, Tensor]]:
        assert outputs.last_values is not None
        return reward_model_loss(outputs.last_values, terms, RANKING)

    rate = model.settings.learning_rate or recipe.update.learning_rate
    return FirstOrder(
        model.role,
        Loss({"last_values"}, terms, value, whole_groups=True),
        of.inputs.update(learning_rate=rate, epochs=1, minibatches=1),
        steps=of.inputs.steps,
        seed=derive(recipe.run.seed, recipe.name, "reward_model", place),
        name=f"reward_model_{place + 1}" if place else "reward_model",
        keeps=tuple(model.role.parameters),
    )
