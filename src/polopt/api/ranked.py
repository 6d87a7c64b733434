"""What several ranks cannot train is refused before anything is loaded."""

from __future__ import annotations

from polopt.algorithms import row
from polopt.choices.domain import TEXT
from polopt.errors import RecipeError
from polopt.recipe import Recipe


def check(recipe: Recipe, size: int) -> None:
    """Refuse a recipe that so many ranks of torchrun cannot train.

    Raises:
        RecipeError: names the field.
    """
    if size == 1:
        return
    for stage in recipe.stages:
        if stage.domain != TEXT.name:
            raise RecipeError(
                f"data.source: {stage.data.source!r} is not allowed with {size} ranks, which "
                "train language models alone; one process"
            )
        if stage.coordination.mode != "alternate":
            raise RecipeError(
                f"coordination.mode: {stage.coordination.mode!r} is not allowed with torchrun; "
                "alternate"
            )
        if row(stage.algorithm).update == "natural_step":
            raise RecipeError(
                f"algorithm: {stage.algorithm!r} is not allowed with {size} ranks, for its "
                "step is searched along one line; one process"
            )
        if stage.update.optimiser == "adamw_8bit" and stage.update.shard:
            raise RecipeError(
                'update.optimiser: "adamw_8bit" is not allowed with update.shard on '
                f"{size} ranks; adamw, or shard = false"
            )
