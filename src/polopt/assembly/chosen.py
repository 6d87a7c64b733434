"""From the names of a resolved stage to functions: the one place where a string becomes code."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from polopt.choices import COLUMNS, Choice
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.resolution.effects import chosen_by_fields


def function(column: str, name: str) -> Any:  # noqa: ANN401
    """The function behind a choice; imports its module."""
    return named(COLUMNS[column].choices[name].function)


def chosen(column: str, stage: StageRecipe) -> Any:  # noqa: ANN401
    """What a resolved stage chose in a column, with the stage's numbers bound to it."""
    values = flat(stage)
    choice = _choice(column, stage.domain, values)
    found = named(choice.function)
    fields = {**(choice.arguments or {}), **choice.follows}
    if fields:
        arguments = {argument: values[field] for argument, field in fields.items()}
        found = found(**arguments) if choice.factory else partial(found, **arguments)
    return found


def _choice(column: str, domain: str, values: dict[str, Any]) -> Choice:
    """What stands in a column: what another one puts there, a field chooses, or the domain has."""
    entries = {entry.column.name: entry for entry in chosen_by_fields(values)}
    for entry in entries.values():
        if column in entry.choice.replaces:
            return entry.choice.replaces[column]
    name = entries[column].name if column in entries else COLUMNS[column].only[domain]
    return COLUMNS[column].choices[name].on(domain)


def named(target: str) -> Any:  # noqa: ANN401
    """The object behind ``module:name``."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
