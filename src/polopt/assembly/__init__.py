"""From a resolved stage to callables: what a run is built of, by domain. Loaded when one begins."""

from __future__ import annotations

from polopt.algorithms import row
from polopt.assembly.chosen import named
from polopt.assembly.shared import Parts
from polopt.coordination.stage import Stage


def build(parts: Parts) -> Stage:
    """The stage of a resolved recipe, by the function that its row names for the domain."""
    recipe = parts.recipe
    stage: Stage = named(row(recipe.algorithm).places[recipe.domain].stage)(parts)
    return stage


__all__ = ["Parts", "build"]
