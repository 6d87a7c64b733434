"""The objective columns of a recipe as a loss of the actor's outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polopt.assembly.chosen import chosen, number
from polopt.objective import KLTerm, PolicyObjective, StepTerms, policy_loss, step_terms
from polopt.recipe import StageRecipe
from polopt.roles.policies.token import Quantity
from polopt.update import AdaptiveNumber
from polopt.update.minibatch import Loss


def objective_of(recipe: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()) -> PolicyObjective:
    """The objective columns of a resolved stage; adaptive numbers are read with each loss."""
    kl = None
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
        entropy_coefficient=recipe.objective.entropy_coefficient or 0.0,
    )


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
    )


def given(tensor: Tensor | None) -> Tensor:
    """An output that the loss requested of the forward pass."""
    assert tensor is not None, "asked for"
    return tensor
