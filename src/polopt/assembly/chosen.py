"""From the names of a resolved stage to functions: the one place where a string becomes code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from polopt.choices import COLUMNS, Choice
from polopt.choices.choice import Trait
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.resolution.effects import chosen_by_fields
from polopt.update import AdaptiveNumber


def function(column: str, name: str) -> Any:  # noqa: ANN401
    """The function behind a choice; imports its module."""
    return named(COLUMNS[column].choices[name].function)


def chosen(column: str, stage: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()) -> Any:  # noqa: ANN401
    """The function that a resolved stage chose in a column, with its parameters bound.

    Args:
        column: one whose choice is a field.
        stage: resolved.
        adaptive: adaptive numbers, each bound as an object instead of the value of its field.
    """
    choice = _choice(column, stage)
    found, fields = named(choice.function), {**(choice.arguments or {}), **choice.follows}
    if fields:
        values = {argument: number(stage, field, adaptive) for argument, field in fields.items()}
        found = found(**values) if choice.factory else partial(found, **values)
    return found if choice.adapter is None else named(choice.adapter)(found)


def has_trait(trait: Trait, column: str, stage: StageRecipe) -> bool:
    """Whether the choice of a resolved stage in a column has a trait."""
    return trait in _choice(column, stage).traits


def number(stage: StageRecipe, field: str, adaptive: Sequence[AdaptiveNumber] = ()) -> Any:  # noqa: ANN401
    """The value of a field, or the adaptive number that replaces it."""
    return next((one for one in adaptive if one.field == field), flat(stage)[field])


def _choice(column: str, stage: StageRecipe) -> Choice:
    """The choice in a column: put there by another choice, by a field, or by the domain."""
    entries = {entry.column.name: entry for entry in chosen_by_fields(flat(stage))}
    for entry in entries.values():
        if column in entry.choice.replaces:
            return entry.choice.replaces[column]
    name = entries[column].name if column in entries else COLUMNS[column].only[stage.domain]
    return COLUMNS[column].choices[name].on(stage.domain)


def named(target: str) -> Any:  # noqa: ANN401
    """The object behind ``module:name``."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
