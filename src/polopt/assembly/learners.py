"""The learner of the policy: first-order steps, or one natural-gradient step per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polopt.algorithms import row
from polopt.assembly.chosen import function
from polopt.assembly.context import PolicyContext, policy_learner
from polopt.assembly.critic import Valued
from polopt.assembly.drift import drifts_of
from polopt.assembly.objective import old_is_new, policy_gradient
from polopt.choices.coordination import anchored_in_sampling
from polopt.coordination.stage import Learner
from polopt.recipe.fields import flat
from polopt.seeding import derive
from polopt.update.minibatch import Companion, Loss
from polopt.update.natural_step import NaturalStep, Region


def learner_of_policy(
    of: PolicyContext, critic: Valued | None, companions: Sequence[Companion] = ()
) -> Learner:
    """The learner that the row names in the column ``update``."""
    return function("update", row(of.recipe.algorithm).update)(of, critic, companions)


def first_order(
    of: PolicyContext, critic: Valued | None, companions: Sequence[Companion] = ()
) -> Learner:
    """AdamW on the policy loss, plus the loss of a critic that shares its trunk."""
    loss: Loss[Any] = policy_gradient(of.recipe, of.adaptive)
    if old_is_new(of.recipe) or anchored_in_sampling(flat(of.recipe)):
        loss = replace(loss, watch=drifts_of(of.recipe))
    options: dict[str, Any] = {}
    if critic is not None:
        loss, options = critic.joined(loss)
    return policy_learner(of, loss, companions=companions, **options)


def natural_step(
    of: PolicyContext, critic: Valued | None, companions: Sequence[Companion] = ()
) -> Learner:
    """TRPO on the policy loss; a critic has an optimiser of its own."""
    assert not companions, "refused: the region bounds the objective alone"
    recipe = of.recipe
    loss: Loss[Any] = policy_gradient(of.recipe, of.adaptive)
    if critic is not None:
        loss, _ = critic.joined(loss)
    return NaturalStep(
        of.actor,
        loss,
        Region(**recipe.trust_region.model_dump()),
        micro_batch_tokens=recipe.update.micro_batch_tokens,
        seed=derive(recipe.run.seed, recipe.name, "update"),
        name="policy",
        divergence=of.divergence,
    )
