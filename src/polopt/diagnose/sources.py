"""Whether the data that a recipe names are there, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from polopt.algorithms import row
from polopt.envs.text import TextTask, load
from polopt.errors import DataError, RecipeError
from polopt.recipe import Recipe
from polopt.recipe.contradictions import CONTROL

GENERATED = ("task:", "reasoning-gym:")


def check_sources(recipe: Recipe) -> None:
    """Ask for every task with its parameters, and for every file.

    Raises:
        RecipeError: no such task, a parameter that it does not take, or no preferences in it.
        DataError: no such file.
    """
    for stage in recipe.stages:
        sources = {
            "data.source": stage.data.source,
            "data.evaluation_source": stage.data.evaluation_source,
            "pretraining.source": stage.pretraining.source,
        }
        for field, source in sources.items():
            if source is None or source.startswith("hub:"):
                continue
            if source.startswith(CONTROL):
                from polopt.envs.control.registry import make  # brings torch

                make(source, 1, stage.data.parameters)
                continue
            if source.startswith(GENERATED):
                task = load(source, stage.data.parameters, stage.run.seed)
                if "pairs" in row(stage.algorithm).requires and field.startswith("data."):
                    _check_preferences(field, source, stage.algorithm, task)
            elif not Path(source).is_file():
                problem = "is not a file" if Path(source).exists() else "does not exist"
                raise DataError(f"{field}: {source!r} {problem}")


def _check_preferences(field: str, source: str, algorithm: str, task: TextTask) -> None:
    if "completions" not in task.row("train", 0):
        raise RecipeError(
            f"{field}: {source} has no preferences, and {algorithm} learns from them; task:taste, "
            "or a hub: source or a file with data.chosen_field and data.rejected_field"
        )
