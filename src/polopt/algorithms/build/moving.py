"""Which numbers of a recipe follow the run, and how."""

from __future__ import annotations

from polopt.recipe import StageRecipe
from polopt.update.moving import Moving, ema, running_mean


def moving_numbers(recipe: StageRecipe) -> list[Moving]:
    """Of a resolved stage; each stands in the place of a field and is a learner of its own."""
    return [*_baseline(recipe)]


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
