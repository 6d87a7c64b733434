"""A comparison: what is named becomes arms, which are trained where they are not, and judged."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt import record
from polopt.algorithms import row
from polopt.api.beforehand import Flags, RecipeSource
from polopt.api.resumed import flag_values
from polopt.api.trainings import Asked, trained
from polopt.diagnose.compare.arms import Arm, grouped
from polopt.diagnose.compare.compared import compared
from polopt.diagnose.compare.read import read
from polopt.errors import RecipeError, RunDirectoryError, counted
from polopt.places import is_run, missing
from polopt.ranks import place
from polopt.recipe import load, shown

SEEDS = 3
PLACE = Path("comparisons")
OWN = ("run.seed", "run.directory")  # each training has its own


def compare(
    targets: Sequence[RecipeSource],
    *,
    algorithms: Sequence[str],
    names: Sequence[str],
    seeds: int | Sequence[int] | None,
    stage: str | None,
    flags: Flags,
    out: Path | None,
) -> dict[str, Any]:
    """See :func:`polopt.api.compare`."""
    runs = [Path(one) for one in targets if not isinstance(one, Mapping) and _is_run(Path(one))]
    if not runs:
        asked, own = _arms(targets, algorithms, names, stage, flags), _seeds(seeds)
        called = names or [*dict.fromkeys(_named(one) for one in targets)]
        directory = out or PLACE / _joined(called)
        _check_alone()
        arms = trained(asked, own, directory, _told)
        return _told_of(arms, directory)
    for name, given in (
        ("--algorithms", algorithms),
        ("names", names),
        ("--seeds", seeds),
        ("--FIELD", flags),
    ):
        if given:
            raise RecipeError(f"{name}: no effect on runs that are finished; remove it")
    if len(runs) < len(targets):
        other = next(str(one) for one in targets if one not in [*runs, *map(str, runs)])
        raise RecipeError(f"{other}: a recipe beside finished runs; recipes alone, or runs alone")
    found = [read(run, stage) for run in runs]
    return _told_of(grouped(found), out)


def _told_of(arms: Sequence[Arm], directory: Path | None) -> dict[str, Any]:
    from polopt import __version__

    where = None if directory is None else str(directory)
    return {"polopt": __version__, "directory": where, **compared(arms)}


def free(found: Mapping[str, Any]) -> Path:
    """The directory of the page: that of the trainings, or a new one."""
    directory = found["directory"]
    return record.next_free("compare", PLACE) if directory is None else Path(directory)


def _seeds(given: int | Sequence[int] | None) -> Sequence[int]:
    """Those of every arm: 1 to a number, or as they are named.

    Raises:
        RecipeError: none, or one of them twice.
    """
    seeds = range(1, given + 1) if isinstance(given, int) else given
    if seeds is None:
        return range(1, SEEDS + 1)
    if not seeds:
        raise RecipeError("--seeds: none; a number N for 1 to N, or seeds with commas")
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise RecipeError(f"--seeds: {seed} stands there twice; a seed counts once")
    return seeds


def _arms(
    targets: Sequence[RecipeSource],
    algorithms: Sequence[str],
    names: Sequence[str],
    stage: str | None,
    flags: Flags,
) -> list[Asked]:
    """One for each method of one recipe, or one for each recipe.

    Raises:
        RecipeError: a single arm, methods of several recipes, a method twice, names that do not
            tell arms apart.
    """
    for name in flag_values(flags):
        if name.endswith(OWN):
            raise RecipeError(f"{name}: each training has its own; --seeds N, --out DIRECTORY")
    if names:
        _check_names(names, len(targets), algorithms)
    if algorithms:
        if len(targets) > 1:
            raise RecipeError("--algorithms: methods of one recipe; with several recipes remove it")
        for name in algorithms:
            row(name, "--algorithms")
        if twice := next((name for name in algorithms if algorithms.count(name) > 1), None):
            raise RecipeError(f"--algorithms: {twice} stands there twice")
        arms = [Asked(name, targets[0], flags, name, stage) for name in algorithms]
    else:
        called = names or _told_apart([_named(one) for one in targets])
        arms = [
            Asked(name, one, flags, None, stage) for name, one in zip(called, targets, strict=True)
        ]
    if len(arms) < 2:
        raise RecipeError(
            f"{arms[0].name}: one arm alone; several recipes, or --algorithms A,B of one"
        )
    return arms


def _check_names(names: Sequence[str], targets: int, algorithms: Sequence[str]) -> None:
    """Refuse names that are none: each is a part of the name of a directory.

    Raises:
        RecipeError: says which.
    """
    if algorithms:
        raise RecipeError("names: no effect on methods, which have names; remove it")
    if len(names) != targets:
        raise RecipeError(f"names: {len(names)} of {counted(targets, 'recipe')}; one for each")
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"names: {shown(name)} stands there twice")
        if not name or "/" in name or "\0" in name:
            raise RecipeError(f"names: {shown(name)}; a run directory is called by it")


def _is_run(path: Path) -> bool:
    """Whether a target is a run, and no recipe.

    Raises:
        RunDirectoryError: a directory that is no run, or nothing.
    """
    if path.is_dir() and not is_run(path):
        raise RunDirectoryError(f"{path}: a directory, but that of no run; a run, or a recipe")
    if not path.exists():
        raise RunDirectoryError(f"{path}: {missing(path, Path.exists)}")
    return path.is_dir()


def _named(target: RecipeSource) -> str:
    if isinstance(target, Mapping):
        return load(target).stages[-1].algorithm
    return Path(target).stem


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number where one of them stands there before."""
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if n == 1 else f"{name}-{n}" for name, n in zip(names, counts, strict=True)]


def _joined(names: Sequence[str]) -> str:
    return "-".join(names)


def _check_alone() -> None:
    """Refuse several ranks of torchrun, each of which would start all trainings.

    Raises:
        RecipeError: there are some.
    """
    if place().size > 1:
        raise RecipeError(
            "polopt compare starts its trainings by itself; without torchrun, and with "
            "coordination.trainers for several processes"
        )


def _told(text: str) -> None:
    sys.stderr.write(f"{text}\n")
