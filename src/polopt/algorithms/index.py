"""Which rows there are. A row is a module of its own, loaded when somebody asks for it."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from polopt.algorithms.row import Row
from polopt.errors import RecipeError
from polopt.recipe import shown

INDEX = {
    "sft": "maximum likelihood of demonstrations: the warm start of the others",
    "grpo": "advantages relative to a group of responses, clipped ratio, no critic",
}


def row(name: str, field: str = "algorithm") -> Row:
    """The row of that name.

    Raises:
        RecipeError: there is none; names ``field`` and the nearest one.
    """
    if name not in INDEX:
        near = get_close_matches(name.lower(), INDEX, n=1)
        advice = f"did you mean {near[0]}? " if near else ""
        raise RecipeError(
            f"{field}: {shown(name)} is not allowed; {advice}there are {', '.join(INDEX)}"
        )
    return import_module(f"polopt.algorithms.{name}").ROW
