"""From a TOML file and flags to a validated recipe: one dictionary, validated once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from polopt.errors import RecipeError
from polopt.places import missing
from polopt.recipe import messages
from polopt.recipe.contradictions import contradictions
from polopt.recipe.fields import nearest
from polopt.recipe.flags import Flags
from polopt.recipe.messages import Problem, field_name, raise_for
from polopt.recipe.schema import Recipe, StageRecipe
from polopt.recipe.stages import ONLY, StageTables, Table, misplaced, split

Location = list[str | int]


def load(source: str | Path | Mapping[str, Any], flags: Flags = ()) -> Recipe:
    """Read a recipe, let flags override it, validate it.

    Args:
        source: a TOML file, or the same tables as a mapping.
        flags: words of a command line (``["--update.epochs", "2"]``), or a mapping from dotted
            names to values. ``rl.update.epochs`` reaches the stage ``rl``, ``update.epochs`` all.

    Raises:
        RecipeError: one line that names the field, the value and what is allowed.
    """
    table = source if isinstance(source, Mapping) else read(Path(source))
    stages = split(table, flags)
    raise_for([problem for stage in stages for problem in misplaced(stage)])
    try:
        recipe = Recipe.model_validate(
            {"stages": tuple(_complete(stage) for stage in stages)}, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise_for(_problems(error, stages))
        raise
    raise_for(contradictions(recipe))
    return recipe


def read(path: Path) -> Table:
    """The tables of a TOML file.

    Raises:
        RecipeError: no such file, a directory, not UTF-8, or not TOML (with line and column).
    """
    name = field_name((str(path),))
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"{name}: {missing(path, os.path.isfile)}") from None
    except IsADirectoryError:
        raise RecipeError(f"{name}: a directory; a recipe is a TOML file") from None
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: not UTF-8 at byte {error.start + 1}") from None
    except RecursionError:
        raise RecipeError(f"{name}: not TOML: nested too deeply") from None
    except ValueError as error:  # a TOMLDecodeError, which says line and column
        raise RecipeError(f"{name}: not TOML: {field_name((str(error),))}") from None


def dump(recipe: Recipe) -> Table:
    """The recipe as plain tables that ``load`` reads back: what was set, and no ``None``."""
    tables = {stage.name: _table(stage) for stage in recipe.stages}
    if list(tables) == [ONLY]:
        return tables[ONLY]
    runs = [table.pop("run", {}) for table in tables.values()]
    shared = {
        key: value for key, value in runs[0].items() if all(_has(r, key, value) for r in runs)
    }
    for table, run in zip(tables.values(), runs, strict=True):
        if "steps" in run and "steps" not in shared:  # else: what differs follows from steps
            table["run"] = {"steps": run["steps"]}
    return {"run": shared, "stage": tables}


def standalone(stage: StageRecipe) -> Table:
    """One stage as the tables of a recipe of its own, to be loaded with other flags."""
    return {key: value for key, value in _table(stage).items() if key not in ("from", "until")}


def _table(stage: StageRecipe) -> Table:
    table = stage.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {key: value for key, value in table.items() if key != "name" and value != {}}


def _has(table: Table, key: str, value: object) -> bool:
    return key in table and table[key] == value


def _complete(stage: StageTables) -> Table:
    """The table of a stage as the schema names it; absent required sections are empty."""
    values: Table = {"model": {}, "data": {}, **stage.values}
    if "reward" in values:
        values["rewards"] = (values.pop("reward"),)
    return {**values, "name": stage.name, "inherited": stage.inherited}


def _problems(error: ValidationError, stages: list[StageTables]) -> list[Problem]:
    """Pydantic's findings in our words: unknown fields first, missing ones last."""
    unknown: list[Problem] = []
    refused: list[Problem] = []
    missing: list[Problem] = []
    meant: set[str | None] = set()
    for found in error.errors(include_url=False, include_context=False):
        match found["loc"]:
            case ("stages", int(index), *rest):
                stage = stages[index]
            case _:
                continue  # "too few stages" follows from the errors inside them
        path, value = _walk(_complete(stage), rest)
        if found["type"] in ("extra_forbidden", "invalid_key"):
            path = path or rest  # pydantic writes a key beyond 64 bits as text, where none stands
            near = nearest(path)
            name = stage.written(near, beside=path) if near else None
            meant.add(name)
            unknown.append(Problem(stage.written(path), messages.unknown(path, name)))
        elif found["type"] == "missing":
            missing.append(Problem(stage.written(rest, beside=rest[:1]), messages.missing(rest)))
        else:
            refused.append(Problem(stage.written(path), messages.refused(path, value)))
    return unknown + refused + [problem for problem in missing if problem.field not in meant]


def _walk(value: Any, path: Location) -> tuple[Location, Any]:  # noqa: ANN401
    """As far along ``path`` as the user's tables go; what is left are pydantic's own labels."""
    walked: Location = []
    for part in path:
        match value, part:
            case (Mapping(), _) if part in value:
                value = value[part]
            case (list() | tuple(), int()):
                value = value[part]
            case _:
                break
        walked.append(part)
    return walked, value
