"""Flags of the same dotted names as the fields: ``--update.learning_rate 1e-4``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polopt.errors import RecipeError
from polopt.recipe.fields import catalogue
from polopt.recipe.messages import field_name

Flags = Sequence[str] | Mapping[str, Any]
NUMBERS = ("a list of integers", "a list of numbers")  # without brackets they have commas


def parse(flags: Flags, stages: Iterable[str] = ()) -> list[tuple[str | None, list[str], Any]]:
    """Flags as (stage or None for all, path of the field, value), in order.

    A sequence holds words of a command line (``--a.b value`` or ``--a.b=value``), whose values are
    parsed as TOML unless the field is a string; a mapping holds dotted names and finished values.

    Raises:
        RecipeError: see ``pairs``.
    """
    given = list(flags.items()) if isinstance(flags, Mapping) else pairs(list(flags))
    parsed: list[tuple[str | None, list[str], Any]] = []
    for name, value in given:
        stage, path = _target(str(name), set(stages))
        typed = value if isinstance(flags, Mapping) else _typed(".".join(path), value)
        parsed.append((stage, path, typed))
    return parsed


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """The words of a command line as (dotted name, text of the value), in order.

    Raises:
        RecipeError: a word that is no flag, or a flag without a value.
    """
    found: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise RecipeError(f"{field_name((word,))}: not a flag; --section.field value")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise RecipeError(f"--{field_name((name,))}: needs a value")
            value = following
        found.append((name, value))
    return found


def _target(name: str, stages: set[str]) -> tuple[str | None, list[str]]:
    """``rl.update.epochs`` or ``stage.rl.update.epochs`` name a stage; others every stage.

    A stage may be called ``reward``: what is a field of the section is meant as one.
    """
    path = name.split(".")
    if path[0] == "stage" and len(path) > 2 and path[1] in stages:
        path = path[1:]
    if path[0] in stages and len(path) > 1 and name not in catalogue():
        return path[0], path[1:]
    return None, path


def _typed(name: str, text: str) -> Any:  # noqa: ANN401
    """The text of a flag as the value that its field takes."""
    leaf = catalogue().get(name)
    if leaf and leaf.takes_text:
        return text
    value = _toml(text)
    if not leaf or not leaf.allowed.startswith("a list") or isinstance(value, list):
        return value
    if leaf.allowed.startswith(NUMBERS):
        numbers = _toml(f"[{text}]")
        return numbers if isinstance(numbers, list) else text
    return [text]  # text may hold a comma


def _toml(text: str) -> Any:  # noqa: ANN401
    """One TOML value, or the text itself where it is none: validation says what is allowed."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
