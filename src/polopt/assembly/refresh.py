"""Reward models on the rollouts of the policy: agreement with labels, and refreshing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from polopt.assembly.around import every
from polopt.assembly.context import StageContext
from polopt.assembly.reward import RewardModel
from polopt.coordination.stage import Learner
from polopt.math.preference import has_pair, pair_accuracy
from polopt.objective.preference import (
    PreferenceObjective,
    PreferenceTerms,
    preference_terms,
    reward_model_loss,
    sigmoid,
)
from polopt.recipe.contradictions import reward_name
from polopt.roles.policies.token import Outputs
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss

RANKING = PreferenceObjective(sigmoid(beta=1.0), beta=1.0)  # InstructGPT 2203.02155, Eq. 1


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
