"""The error messages of a recipe, in one line: field, value, allowed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polopt.choices.section import LARGEST
from polopt.errors import RecipeError
from polopt.recipe.fields import Path, allowed, catalogue, members
from polopt.recipe.schema import Recipe

_LINE, _NAME, _VALUE, _MORE = 300, 80, 60, 120  # characters
_NAMED = 5  # fields of the problems behind the first one


@dataclass(frozen=True)
class Problem:
    """One thing the user can put right."""

    field: str  # dotted, as the user writes it
    text: str  # the value and the allowed ones

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def raise_for(problems: Sequence[Problem]) -> None:
    """Raise ``RecipeError`` for the first problem, naming the fields of the rest, if there is any.

    Nothing happens where all is well.
    """
    lines = list(dict.fromkeys(map(str, problems)))
    if not lines:
        return
    more = _more(problems, len(lines) - 1) if len(lines) > 1 else ""
    raise RecipeError(_cut(lines[0], _LINE - len(more)) + more)


def _more(problems: Sequence[Problem], count: int) -> str:
    """The number of further problems, and their fields."""
    fields = dict.fromkeys(problem.field for problem in problems)
    others = [field for field in fields if field != problems[0].field]
    named = ", ".join([*others[:_NAMED], *(["…"] if len(others) > _NAMED else [])])
    return f" (and {count} more{_cut(named and f': {named}', _MORE)})"


def shown(value: object) -> str:
    """A value much as TOML would write it, on one line and not too long."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            bits = value.bit_length()  # str() itself refuses the largest integers
            return str(value) if bits <= 64 else f"an integer of {bits} bits"
        case float():
            return repr(value)
        case str():
            return f'"{_cut(_printable(value), _VALUE)}"'
        case Mapping():
            return "a table" if value else "an empty table"
        case list() | tuple():
            return _cut("[" + ", ".join(shown(item) for item in value) + "]", _VALUE)
        case _:
            return f"a {type(value).__name__}"


def field_name(path: Path, stage: str | None = None) -> str:
    """``("rewards", 0, "weight")`` as a person writes it: ``rewards[0].weight``."""
    name = "" if stage is None else f"stage.{stage}"
    for part in path:
        dot = "." if name else ""
        name += f"[{part}]" if isinstance(part, int) else dot + _printable(str(part))
    return _cut(name, _NAME)


def name_in(recipe: Recipe, index: int, field: str) -> str:
    """The dotted name under which the user wrote ``field`` of stage ``index``."""
    stage = recipe.stages[index]
    own = len(recipe.stages) > 1 and field not in stage.inherited
    return field_name((field,), stage.name if own else None)


def unknown(path: Path, meant: str | None) -> str:
    """Text for a field that does not exist."""
    if meant:
        return f"unknown field; did you mean {meant}?"
    table = field_name(path[:-1]) or "a recipe"
    return f"unknown field; {table} has {', '.join(members(path[:-1])) or 'no fields'}"


def missing(path: Path) -> str:
    """Text for a required field that is not there."""
    leaf = catalogue().get(field_name(path))
    return f"missing; {leaf.description if leaf else allowed(path)}"


def refused(path: Path, value: object) -> str:
    """Text for a value of the wrong type or out of range."""
    words = allowed(path)
    if words.startswith("an integer") and type(value) is int and value > LARGEST:
        words += f", at most {LARGEST}"
    return f"{shown(value)} is not allowed; {words}"


def _printable(text: str) -> str:
    """Control characters, line ends and lone surrogates escaped; everything else as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
