"""From a resolved recipe to a :class:`Stage` of callables, by domain. Imported at the start."""

from __future__ import annotations

from polopt.algorithms import row
from polopt.assembly.chosen import named
from polopt.assembly.inputs import StageInputs
from polopt.coordination.stage import Stage


def build(inputs: StageInputs) -> Stage:
    """The stage of a resolved recipe, by the function that its row names for the domain."""
    recipe = inputs.recipe
    stage: Stage = named(row(recipe.algorithm).places[recipe.domain].stage)(inputs)
    return stage


__all__ = ["StageInputs", "build"]
