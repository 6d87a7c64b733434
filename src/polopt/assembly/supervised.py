"""Stages that maximise the likelihood of responses: given ones, or the policy's best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from polopt.assembly.around import on_kept
from polopt.assembly.chosen import chosen
from polopt.assembly.context import (
    StageContext,
    assembled,
    examiner,
    policy_learner,
    stage_context,
)
from polopt.assembly.inputs import StageInputs
from polopt.assembly.objective import given
from polopt.assembly.text import sampled_stage
from polopt.coordination.offline import OfflineSource
from polopt.coordination.stage import Evaluation, Stage
from polopt.credit import Credit, assign, every_row, ones, untruncated
from polopt.math.reduce import row_mean
from polopt.objective import Reduction, reduction, supervised_loss
from polopt.recipe import StageRecipe
from polopt.roles.policies.token import Quantity
from polopt.roles.scorer import together
from polopt.rollout.dataset import demonstrated
from polopt.rollout.evaluation import both
from polopt.rollout.likelihood import likelihood
from polopt.types import Advantages, Batch, Experience, Group
from polopt.update.minibatch import Loss


def demonstrated_stage(inputs: StageInputs) -> Stage:
    """Supervised fine-tuning: a stage that maximises the likelihood of given responses."""
    of = stage_context(inputs, wanted="demonstrations")
    assert inputs.recipe.update.batch_size is not None, "resolved by the row"

    def group(place: int) -> Group:
        return demonstrated(place, of.text.demonstration(place))

    return assembled(
        of,
        OfflineSource(group, inputs.recipe.update.batch_size),
        prepare=of.tensors,
        credit=alike,
        learners=[policy_learner(of, maximum_likelihood(inputs.recipe))],
        evaluate=_evaluated(of),
    )


def _evaluated(of: StageContext) -> Callable[[bool], Evaluation]:
    """Evaluate on held-out demonstrations, and by answers where something can judge them."""
    answers = examiner(of, publishing=True)

    def measure(batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss is that of training: no temperature, and over the mask."""
        tensors = of.tensors(batch)
        assert tensors.tokens is not None
        logp, likeliest = together(of.actor, tensors.tokens, ["logp", "likeliest"])
        right = likeliest == tensors.tokens.tokens[:, tensors.tokens.prompt_width :]
        return -row_mean(logp, tensors.mask), row_mean(right.to(logp.dtype), tensors.mask)

    def evaluate(greedy: bool) -> Evaluation:
        found = likelihood(of.text.demonstrations, measure)
        return found if answers is None else both(answers(greedy), found)

    return evaluate


def imitated_stage(inputs: StageInputs) -> Stage:
    """A stage that samples groups and maximises the likelihood of the selected responses."""
    of, credit = stage_context(inputs), selection_of(inputs.recipe)
    return sampled_stage(
        of,
        prepare=of.tensors,
        credit=lambda tensors: _with_metrics(tensors, assign(tensors, credit)),
        learners=[on_kept(policy_learner(of, maximum_likelihood(inputs.recipe)))],
    )


def selection_of(recipe: StageRecipe) -> Credit:
    """A = 1 on every token of the selected responses; the others leave the mask."""
    return Credit(
        returns=ones,
        keep=untruncated if recipe.credit.drop_truncated else every_row,
        select=chosen("select", recipe),
    )


def _with_metrics(experience: Experience, advantages: Advantages) -> Advantages:
    """The same with metrics: the share of selected responses and their mean reward."""
    kept = experience.rewards[advantages.valid]
    metrics = {"kept/share": len(kept) / len(experience.rewards)}
    if len(kept):
        metrics["kept/reward"] = float(kept.mean())
    return replace(advantages, metrics=advantages.metrics | metrics)


def maximum_likelihood(recipe: StageRecipe) -> Loss[Reduction]:
    """The negative log-likelihood of the given tokens, with the aggregation of the stage."""
    aggregate, length = chosen("aggregation", recipe), recipe.objective.aggregation_length
    want: set[Quantity] = {"logp"}

    def terms(experience: Experience, advantages: Advantages) -> Reduction:
        return reduction(advantages.mask, experience.group, aggregate, length)

    return Loss(want, terms, lambda outputs, reduce: supervised_loss(given(outputs.logp), reduce))


def alike(experience: Experience) -> Advantages:
    """A = 1 on every token of every row."""
    advantages = experience.mask.to(torch.float32)
    return Advantages(advantages, experience.mask, experience.mask.any(-1))
