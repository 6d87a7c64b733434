"""From the tables of a recipe and its flags to one table for each stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polopt.errors import RecipeError
from polopt.recipe.fields import Path, members
from polopt.recipe.flags import Flags, parse
from polopt.recipe.messages import Problem, field_name, shown, unknown

Table = dict[str, Any]
ONLY = "train"  # name of the one stage of a recipe without stages
_TAKEN = r"last|best|step_\d+"  # a stage gives its name to the checkpoint at its end
_MAY_LACK = ("reward", "until")  # a flag without a stage reaches the stages that have them


@dataclass(frozen=True)
class StageTables:
    """One stage before validation."""

    name: str
    values: Table  # shared values, overridden by those of the stage
    own: frozenset[str]  # dotted names that stand in the stage; empty without stages
    inherited: frozenset[str]  # dotted names that stand outside

    def written(self, path: Path, beside: Path | None = None) -> str:
        """The name under which the user wrote the field at ``path``.

        A field that is not there would stand in the stage if what it is ``beside`` does.
        """
        place = self._short(path if beside is None else beside)
        return field_name(self._short(path), self.name if _dotted(place) in self.own else None)

    def _short(self, path: Path) -> Path:
        if list(path[:2]) == ["rewards", 0] and "reward" in self.values:
            return ["reward", *path[2:]]
        return path


def split(table: Mapping[str, Any], flags: Flags = ()) -> list[StageTables]:
    """The stages in order, shared sections below each of them, flags over everything.

    Raises:
        RecipeError: tables that are no stages, a name that none can have, a flag without a value.
    """
    shared = _copied({key: value for key, value in table.items() if key != "stage"})
    staged = "stage" in table
    owns = _own_tables(table["stage"]) if staged else {ONLY: {}}
    parsed = parse(flags, owns if staged else ())
    for _, path, value in (flag for flag in parsed if flag[0] is None):
        _put_everywhere(shared, list(owns.values()), path, value)
    for stage, path, value in parsed:
        if stage is not None:
            _put(owns[stage], path, value)
    return [_stage(name, own, shared, staged) for name, own in owns.items()]


def misplaced(stage: StageTables) -> list[Problem]:
    """Errors that no schema covers: two spellings of rewards, and the shared part of ``run``."""
    both = "reward" in stage.values and "rewards" in stage.values
    problems = [Problem("reward", "stands beside rewards; [reward] or [[rewards]]")] if both else []
    problems += [
        Problem(
            field_name((field,), stage.name),
            "not a field of one stage; only run.steps may differ between stages",
        )
        for field in sorted(stage.own)
        if field.startswith("run.") and field != "run.steps"
    ]
    return problems + [
        Problem(stage.written([key]), unknown([key], None))
        for key in ("name", "inherited")  # the schema's own, never the user's
        if key in stage.values
    ]


def _own_tables(stages: object) -> dict[str, Table]:
    """The tables below ``[stage]``, copied, with names that a flag can carry."""
    if not isinstance(stages, Mapping) or not stages:
        raise RecipeError(f"stage: {shown(stages)} is not allowed; tables such as [stage.sft]")
    taken = {*members(()), "stage"} - {"reward"}  # flags of both kinds can be told apart there
    for name, own in stages.items():
        field = field_name(("stage", str(name)))
        if not isinstance(own, Mapping):
            raise RecipeError(f"{field}: {shown(own)} is not allowed; a table")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", str(name)) or name in taken:
            raise RecipeError(
                f"{field}: not a name for a stage; letters, digits, _ and -, "
                "and not the name of a section"
            )
        if re.fullmatch(_TAKEN, str(name), re.IGNORECASE):
            raise RecipeError(f"{field}: not a name for a stage; checkpoints have it")
    return {str(name): _copied(own) for name, own in stages.items()}


def _copied(table: Mapping[Any, Any], depth: int = 3) -> Table:
    """As dictionaries, as deep as a recipe goes: sections, fields, parameters."""
    return {
        key: _copied(value, depth - 1) if isinstance(value, Mapping) and depth else value
        for key, value in table.items()
    }


def _put_everywhere(shared: Table, owns: list[Table], path: list[str], value: object) -> None:
    """A flag without a stage overrides the values of all stages."""
    having = [own for own in owns if path[0] in own]
    if path[0] in _MAY_LACK and path[0] not in shared and having:
        for own in having:
            _put(own, path, value)
        return
    _put(shared, path, value)
    for own in owns:
        _drop(own, path)


def _put(table: Table, path: list[str], value: object) -> None:
    for key in path[:-1]:
        if not isinstance(table.get(key), dict):
            table[key] = {}
        table = table[key]
    table[path[-1]] = value


def _drop(table: Table, path: list[str]) -> None:
    for key in path[:-1]:
        inner = table.get(key)
        if not isinstance(inner, dict):
            return
        table = inner
    table.pop(path[-1], None)


def _stage(name: str, own: Table, shared: Table, staged: bool) -> StageTables:
    if "reward" in own or "rewards" in own:  # its own spelling replaces the shared one
        other = "rewards" if "reward" in own else "reward"
        shared = {key: value for key, value in shared.items() if key != other}
    names = _names(own)
    if staged and "algorithm" not in shared:
        names |= {"algorithm"}  # where it is missing, it is missing there
    outside = _names(shared) - names if staged else frozenset[str]()
    return StageTables(name, _merged(shared, own), names, outside)


def _merged(below: Table, above: Table) -> Table:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            value = _merged(under, value)
        merged[key] = value
    return merged


def _names(table: Table) -> frozenset[str]:
    """Dotted names of the sections and fields that stand in a table."""
    fields = (
        f"{key}.{field}"
        for key, section in table.items()
        if isinstance(section, dict)
        for field in section
    )
    rewards = ["rewards"] if "reward" in table else []  # as the schema calls them
    return frozenset([*map(str, table), *fields, *rewards])


def _dotted(path: Path) -> str:
    return ".".join(map(str, path[:2]))
