"""Rows that learn from given responses."""

from __future__ import annotations

import torch

from polopt.algorithms.build.policy import given
from polopt.algorithms.build.shared import Parts, assembled, policy_learner, shared
from polopt.algorithms.choices import chosen
from polopt.coordination.offline import OfflineSource
from polopt.coordination.stage import Stage
from polopt.objective import Reduction, reduction, supervised_loss
from polopt.recipe import StageRecipe
from polopt.roles.policies.token import Quantity
from polopt.rollout.dataset import demonstrated
from polopt.types import Credited, Experience, Group
from polopt.update.minibatch import Loss


def demonstrated_stage(parts: Parts) -> Stage:
    """A stage that raises the likelihood of given responses, every token of them alike."""
    of = shared(parts, demonstrations=True)
    assert parts.recipe.update.batch_size is not None, "resolved by the row"

    def group(place: int) -> Group:
        return demonstrated(place, of.text.demonstration(place))

    return assembled(
        of,
        OfflineSource(group, parts.recipe.update.batch_size),
        prepare=of.tensors,
        credit=alike,
        learners=[policy_learner(of, likelihood(parts.recipe))],
    )


def likelihood(recipe: StageRecipe) -> Loss[Reduction]:
    """Negative log-likelihood of the given tokens with the stage's aggregation."""
    aggregate = chosen("aggregation", recipe)
    want: set[Quantity] = {"logp"}

    def terms(experience: Experience, credited: Credited) -> Reduction:
        length = recipe.objective.aggregation_length
        return reduction(credited.mask, experience.group, aggregate, length)

    return Loss(want, terms, lambda scores, reduce: supervised_loss(given(scores.logp), reduce))


def alike(experience: Experience) -> Credited:
    """Every token of every row counts the same: A = 1."""
    advantages = experience.mask.to(torch.float32)
    return Credited(advantages, experience.mask, experience.mask.any(-1))
