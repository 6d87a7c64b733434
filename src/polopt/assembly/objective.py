"""The objective columns of a recipe as a loss of the actor's outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polopt.algorithms import row
from polopt.assembly.chosen import chosen, has_trait, number
from polopt.choices.coordination import anchored_in_sampling
from polopt.choices.update import optimiser_steps
from polopt.objective import (
    KLTerm,
    PolicyObjective,
    StepTerms,
    idle_rows,
    policy_loss,
    sides,
    step_terms,
)
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.roles.policies.token import Quantity
from polopt.update import AdaptiveNumber
from polopt.update.minibatch import Loss


def objective_of(recipe: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()) -> PolicyObjective:
    """The objective columns of a resolved stage; adaptive numbers are read with each loss."""
    kl = None
    entropy = recipe.objective.entropy_coefficient or 0.0
    if recipe.kl.coefficient and recipe.kl.placement == "loss":
        kl = KLTerm(
            chosen("estimator", recipe),
            number(recipe, "kl.coefficient", adaptive),
            corrected=bool(recipe.kl.importance_corrected),
        )
    return PolicyObjective(
        ratio=chosen("ratio", recipe),
        surrogate=chosen("bound", recipe, adaptive),
        aggregate=chosen("aggregation", recipe),
        aggregation_length=recipe.objective.aggregation_length,
        kl=kl,
        correction=chosen("correction", recipe),
        mask_edit=chosen("mask", recipe),
        entropy_coefficient=entropy,
        old_is_new=old_is_new(recipe),
        # Rows of steps in control are whole episodes: there is nothing to leave out.
        vanishes=recipe.domain == "text"
        and has_trait("vanishes", "bound", recipe)
        and kl is None
        and not entropy,
    )


def old_is_new(recipe: StageRecipe) -> bool:
    """Whether the pass with gradient gives log π_old, so that no pass before it is needed.

    It does where it is the only one on a batch, and where nobody asks before it or after it.
    """
    if recipe.domain != "text":
        return False  # the sampler gives it
    one = optimiser_steps(flat(recipe)) == 1 and row(recipe.algorithm).update == "adamw"
    asked = recipe.kl.placement == "reward" and bool(recipe.kl.coefficient)
    corrected = recipe.objective.correction not in (None, "none")
    masked = recipe.objective.mask not in (None, "none")
    stale = anchored_in_sampling(flat(recipe))
    adapted = recipe.kl.controller not in (None, "fixed") or recipe.objective.penalty_target
    later = bool(recipe.critic.warmup_steps)  # the policy does not learn from every batch
    return one and not (asked or corrected or masked or stale or adapted or later)


def policy_gradient(
    recipe: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()
) -> Loss[StepTerms]:
    """The objective columns of a resolved stage as a loss of the actor's outputs."""
    objective = objective_of(recipe, adaptive)
    want: set[Quantity] = {"logp", "entropy" if objective.entropy_coefficient else "entropy_told"}
    return Loss(
        want=want,
        terms=lambda experience, advantages: step_terms(
            experience, advantages, objective, experience.logp
        ),
        value=lambda outputs, terms: policy_loss(
            given(outputs.logp), outputs.entropy, terms, objective
        ),
        needs_logp=objective.mask_edit is not None,
        idle=idle_rows if objective.vanishes else None,
        sides=lambda outputs, terms: sides(given(outputs.logp), terms, objective),
    )


def given(tensor: Tensor | None) -> Tensor:
    """An output that the loss requested of the forward pass."""
    assert tensor is not None, "asked for"
    return tensor
