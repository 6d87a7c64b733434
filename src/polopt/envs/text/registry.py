"""Text tasks by name, with parameters that are checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from polopt.envs.text import chain_sum, reasoning, reverse, taste
from polopt.envs.text.interface import TextTask
from polopt.errors import RecipeError, did_you_mean
from polopt.recipe import Section, shown

Built = tuple[type[Section], Callable[[int, Any], TextTask]]  # parameters, task(seed, parameters)

TASKS: dict[str, Built] = {
    "chain_sum": (chain_sum.Parameters, chain_sum.ChainSum),
    "reverse": (reverse.Parameters, reverse.Reverse),
    "taste": (taste.Parameters, taste.Taste),
}


def load(name: str, parameters: Mapping[str, Any], seed: int) -> TextTask:
    """The task of a data source.

    Args:
        name: ``chain_sum`` or ``task:chain_sum`` for a built-in task, ``reasoning-gym:NAME`` for a
            data set of that package.
        parameters: ``data.parameters`` of the recipe.
        seed: of the rows; it does not move a prompt from one split to the other.

    Raises:
        RecipeError: no such task, no such parameter, or a value that is not allowed.
        MissingExtraError: the package reasoning-gym is not installed.
    """
    if name.startswith(reasoning.PREFIX):
        return reasoning.load(name.removeprefix(reasoning.PREFIX), parameters, seed)
    known = name.removeprefix("task:")
    if known not in TASKS:
        raise RecipeError(f"data.source: {shown(name)} is no built-in task; {_hint(known, TASKS)}")
    schema, task = TASKS[known]
    return task(seed, _checked(schema, parameters))


def _checked(schema: type[Section], parameters: Mapping[str, Any]) -> Section:
    """The parameters as the schema understands them, or one line about the first that is wrong."""
    try:
        return schema.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
    field = str(first["loc"][0])
    if field not in schema.model_fields:
        raise RecipeError(f"data.parameters.{field}: unknown; {_hint(field, schema.model_fields)}")
    node = schema.model_json_schema()["properties"][field]
    kind = "an integer" if node["type"] == "integer" else "a number"
    raise RecipeError(
        f"data.parameters.{field}: {shown(parameters[field])} is not allowed; "
        f"{kind} from {node['minimum']} to {node['maximum']}"
    )


def _hint(name: str, known: Mapping[str, object]) -> str:
    return did_you_mean(name, known, "allowed: " + ", ".join(known))
