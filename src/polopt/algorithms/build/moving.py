"""Which numbers of a recipe follow the run, and how."""

from __future__ import annotations

from polopt.algorithms.choices import chosen
from polopt.recipe import StageRecipe
from polopt.update.moving import Moving, controlled, ema, running_mean


def moving_numbers(recipe: StageRecipe) -> list[Moving]:
    """Of a resolved stage; each stands in the place of a field and is a learner of its own."""
    return [*_baseline(recipe), *_coefficient(recipe)]


def _baseline(recipe: StageRecipe) -> list[Moving]:
    """A baseline that remembers the rewards of earlier batches; before the first one it is 0."""
    credit = recipe.credit
    match credit.baseline:
        case "ema":
            assert credit.baseline_decay is not None, "resolved"
            follow = ema(credit.baseline_decay)
        case "running_mean":
            follow = running_mean
        case _:
            return []
    return [Moving("baseline", "credit.baseline_constant", 0.0, follow)]


def _coefficient(recipe: StageRecipe) -> list[Moving]:
    """The weight of the KL to the reference, which holds that KL to a target."""
    kl = recipe.kl
    if not kl.coefficient or kl.controller == "fixed":
        return []
    return [
        Moving("kl", "kl.coefficient", kl.coefficient, controlled(chosen("controller", recipe)))
    ]
