"""The objective columns of a recipe as a loss of the actor's scores."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from polopt.assembly.chosen import chosen
from polopt.assembly.shared import Trained
from polopt.objective import KLTerm, PolicyObjective, StepTerms, policy_loss, step_terms
from polopt.recipe import StageRecipe
from polopt.roles.policies.token import Quantity
from polopt.update.minibatch import Loss


def objective_of(recipe: StageRecipe) -> PolicyObjective:
    """The objective columns of a resolved stage."""
    kl = None
    if recipe.kl.coefficient and recipe.kl.placement == "loss":
        kl = KLTerm(
            chosen("estimator", recipe),
            recipe.kl.coefficient,
            corrected=bool(recipe.kl.importance_corrected),
        )
    return PolicyObjective(
        ratio=chosen("ratio", recipe),
        surrogate=chosen("bound", recipe),
        aggregate=chosen("aggregation", recipe),
        aggregation_length=recipe.objective.aggregation_length,
        kl=kl,
        correction=chosen("correction", recipe),
        mask_edit=chosen("mask", recipe),
        entropy_coefficient=recipe.objective.entropy_coefficient or 0.0,
    )


def loss_of(of: Trained) -> Loss[StepTerms]:
    """The objective of a policy that is trained, with its moving numbers."""
    return policy_gradient(of.recipe, of.now if of.moving else None)


def policy_gradient(
    recipe: StageRecipe, now: Callable[[], StageRecipe] | None = None
) -> Loss[StepTerms]:
    """The objective columns of a stage as a loss of the actor's scores.

    Args:
        recipe: of the stage, resolved.
        now: the recipe as it stands at a batch, where numbers of it follow the run.
    """
    first = objective_of(recipe)

    def objective() -> PolicyObjective:
        return first if now is None else objective_of(now())

    want: set[Quantity] = {"logp", "entropy"}
    return Loss(
        want=want,
        terms=lambda experience, credited: step_terms(
            experience, credited, objective(), experience.logp
        ),
        value=lambda scores, terms: policy_loss(
            given(scores.logp), scores.entropy, terms, objective()
        ),
        needs_logp=first.mask_edit is not None,
    )


def given(tensor: Tensor | None) -> Tensor:
    """What was asked for."""
    assert tensor is not None, "asked for"
    return tensor
