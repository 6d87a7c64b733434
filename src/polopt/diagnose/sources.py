"""Whether the data that a recipe names are there, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from polopt.envs.text import load
from polopt.errors import DataError
from polopt.recipe import Recipe

GENERATED = ("task:", "reasoning-gym:")


def check_sources(recipe: Recipe) -> None:
    """Ask for every task with its parameters, and for every file.

    Raises:
        RecipeError: no such task, or a parameter that it does not take.
        DataError: no such file.
    """
    for stage in recipe.stages:
        sources = {"source": stage.data.source, "evaluation_source": stage.data.evaluation_source}
        for field, source in sources.items():
            if source is None or source.startswith("hub:"):
                continue
            if source.startswith(GENERATED):
                load(source, stage.data.parameters, stage.run.seed)
            elif not Path(source).is_file():
                problem = "is not a file" if Path(source).exists() else "does not exist"
                raise DataError(f"data.{field}: {source!r} {problem}")
