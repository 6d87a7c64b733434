"""What a recipe resolves to, before models and data load: settings, sizes, inert settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polopt.algorithms import row
from polopt.diagnose.requirements import check_requirements
from polopt.recipe import StageRecipe, load
from polopt.recipe.fields import given
from polopt.recipe.flags import Flags
from polopt.resolution import derived, describe, inert, resolve, settings


def check(recipe: str | Path | Mapping[str, Any], flags: Flags = ()) -> list[dict[str, Any]]:
    """One table for each stage: ``stage, algorithm, row, settings, decided_by, derived, inert``.

    ``decided_by`` says of every setting whether the recipe, the row or the default decided it.

    Raises:
        RecipeError: the recipe cannot be run as it stands.
        MissingExtraError: it needs an optional package that is not installed.
    """
    written = load(recipe, flags)
    resolved = resolve(written)
    check_requirements(resolved)
    return [_checked(*pair) for pair in zip(written.stages, resolved.stages, strict=True)]


def _checked(written: StageRecipe, resolved: StageRecipe) -> dict[str, Any]:
    values = settings(resolved)
    stated = given(written)
    return {
        "stage": resolved.name,
        "algorithm": resolved.algorithm,
        "row": describe(resolved),
        "settings": values,
        "decided_by": {field: _who(field, written, stated) for field in values},
        "derived": derived(resolved),
        "inert": inert(resolved),
    }


def _who(field: str, written: StageRecipe, stated: set[str]) -> str:
    if field in stated:
        return "recipe"
    return "row" if field in row(written.algorithm).defaults(written.domain) else "default"
