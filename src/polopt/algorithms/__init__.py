"""The rows of the methods, one file each; every file of this folder is found. No torch."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from polopt.choices.section import either
from polopt.errors import RecipeError, near
from polopt.recipe.messages import shown
from polopt.recipe.row import Row


def _found() -> dict[str, Row]:
    """Every row by name, in the order in which their papers appeared."""
    modules = (import_module(f"{__name__}.{one.name}") for one in iter_modules(__path__))
    return {one.name: one for one in sorted((m.ROW for m in modules), key=lambda r: r.published)}


ROWS = _found()


def row(name: str, field: str = "algorithm") -> Row:
    """The row of that name.

    Raises:
        RecipeError: there is none; names ``field`` and the nearest one.
    """
    if name not in ROWS:
        meant = near(name.lower(), ROWS, 2)
        advice = f"did you mean {either(meant)}? " if meant else ""
        raise RecipeError(
            f"{field}: {shown(name)} is not allowed; {advice}polopt algorithms lists all "
            f"{len(ROWS)}"
        )
    return ROWS[name]


__all__ = ["ROWS", "row"]
