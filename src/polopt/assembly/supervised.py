"""Rows that raise the likelihood of responses: given ones, or the best of their own."""

from __future__ import annotations

from dataclasses import replace

import torch

from polopt.assembly.around import on_kept
from polopt.assembly.chosen import chosen
from polopt.assembly.context import StageInputs, assembled, policy_learner, stage_context
from polopt.assembly.objective import given
from polopt.assembly.text import sampled_stage
from polopt.coordination.offline import OfflineSource
from polopt.coordination.stage import Stage
from polopt.credit import Credit, assign, every_row, ones, untruncated
from polopt.objective import Reduction, reduction, supervised_loss
from polopt.recipe import StageRecipe
from polopt.roles.policies.token import Quantity
from polopt.rollout.dataset import demonstrated
from polopt.types import Advantages, Experience, Group
from polopt.update.minibatch import Loss


def demonstrated_stage(inputs: StageInputs) -> Stage:
    """A stage that raises the likelihood of given responses, every token of them alike."""
    of = stage_context(inputs, demonstrations=True)
    assert inputs.recipe.update.batch_size is not None, "resolved by the row"

    def group(place: int) -> Group:
        return demonstrated(place, of.text.demonstration(place))

    return assembled(
        of,
        OfflineSource(group, inputs.recipe.update.batch_size),
        prepare=of.tensors,
        credit=alike,
        learners=[policy_learner(of, likelihood(inputs.recipe))],
    )


def imitated_stage(inputs: StageInputs) -> Stage:
    """A stage that samples groups and raises the likelihood of the responses that are kept."""
    of, credit = stage_context(inputs), selection_of(inputs.recipe)
    return sampled_stage(
        of,
        prepare=of.tensors,
        credit=lambda tensors: _telling(tensors, assign(tensors, credit)),
        learners=[on_kept(policy_learner(of, likelihood(inputs.recipe)))],
    )


def selection_of(recipe: StageRecipe) -> Credit:
    """A = 1 on every token of the responses that are kept; the others leave."""
    return Credit(
        returns=ones,
        keep=untruncated if recipe.credit.drop_truncated else every_row,
        select=chosen("select", recipe),
    )


def _telling(experience: Experience, credited: Advantages) -> Advantages:
    """The same with how much is kept, and what it earned."""
    earned = experience.rewards[credited.valid]
    metrics = {"kept/share": len(earned) / len(experience.rewards)}
    if len(earned):
        metrics["kept/reward"] = float(earned.mean())
    return replace(credited, metrics=credited.metrics | metrics)


def likelihood(recipe: StageRecipe) -> Loss[Reduction]:
    """Negative log-likelihood of the given tokens with the stage's aggregation."""
    aggregate, length = chosen("aggregation", recipe), recipe.objective.aggregation_length
    want: set[Quantity] = {"logp"}

    def terms(experience: Experience, credited: Advantages) -> Reduction:
        return reduction(credited.mask, experience.group, aggregate, length)

    return Loss(want, terms, lambda outputs, reduce: supervised_loss(given(outputs.logp), reduce))


def alike(experience: Experience) -> Advantages:
    """Every token of every row counts the same: A = 1."""
    advantages = experience.mask.to(torch.float32)
    return Advantages(advantages, experience.mask, experience.mask.any(-1))
