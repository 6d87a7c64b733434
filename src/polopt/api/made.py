"""From a recipe to a new run directory: validated, planned, and written before torch trains."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polopt import record
from polopt.algorithms import row
from polopt.api import ranked
from polopt.api.beforehand import Flags, RecipeSource
from polopt.api.resumed import flag_values
from polopt.diagnose.requirements import check_hub, check_requirements
from polopt.ranks import place
from polopt.recipe import Recipe, dump
from polopt.recipe.fields import given
from polopt.record.environment import environment
from polopt.resolution import derived, describe, inert, settings

if TYPE_CHECKING:
    from polopt.memory.plan import Plan


def check_runnable(resolved: Recipe) -> None:
    """Refuse what this machine cannot run, before anything is made.

    Raises:
        UserError: what is missing, in one line.
    """
    check_requirements(resolved)
    check_hub(resolved)
    ranked.check(resolved, place().size)


def packaged(name: str) -> Path:
    """The path of a recipe that comes with polopt."""
    return Path(str(files("polopt") / "recipes" / f"{name}.toml"))


def made(
    recipe: RecipeSource,
    flags: Flags,
    written: Recipe,
    resolved: Recipe,
    reward: Callable[..., Any] | None,
) -> Path:
    """A new run directory with its configuration."""
    name = Path(recipe).stem if isinstance(recipe, str | Path) else resolved.stages[0].algorithm
    chosen = resolved.stages[0].run.directory
    directory = Path(chosen) if chosen else record.next_free(name)
    config = configured(name, written, resolved, reward)
    config["command"] = _command(recipe, flags)
    return record.create(directory, config, environment())


def configured(
    name: str,
    written: Recipe,
    resolved: Recipe,
    reward: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """The content of config.json, as the memory plans of the stages decide it."""
    resolved, plans = _planned(resolved)
    config = _config(name, written, resolved, reward)
    for stage, plan in zip(config["stages"], plans, strict=True):
        stage["memory"] = plan if isinstance(plan, str) else plan.as_json()
    return config


def _command(recipe: RecipeSource, flags: Flags) -> str | None:
    """The command that runs the same again, in a new directory; None for a recipe from Python."""
    if isinstance(recipe, Mapping):
        return None
    given = flag_values(flags)
    words = [f"--{name}={value}" for name, value in given.items() if name != "run.directory"]
    start = ["quickstart"] if Path(recipe) == packaged("quickstart") else ["train", str(recipe)]
    return shlex.join(["polopt", *start, *words])


def _planned(resolved: Recipe) -> tuple[Recipe, list[Plan | str]]:
    """The recipe as its memory plans decide it, on the device of the run."""
    from polopt.api.device import device_of
    from polopt.diagnose.machine import found
    from polopt.diagnose.planning import planned

    run = resolved.stages[0].run
    device_of(run.device)  # says so where it is not there
    device = found(run.device, run.threads)
    assert device is not None, "checked"
    return planned(resolved, device)


def _config(
    name: str, written: Recipe, resolved: Recipe, reward: Callable[..., Any] | None
) -> dict[str, Any]:
    from polopt import __version__

    return {
        "polopt": __version__,
        "name": name,
        "reward_from_python": None if reward is None else getattr(reward, "__name__", "reward"),
        "stages": [
            {
                "name": stage.name,
                "algorithm": stage.algorithm,
                "summary": row(stage.algorithm).summary,
                "row": describe(stage),
                "settings": settings(stage),
                "derived": derived(stage),
                "inert": inert(stage, given(own)),  # of the settings that the user stated
            }
            for own, stage in zip(written.stages, resolved.stages, strict=True)
        ],
        "recipe": dump(resolved),  # tables that load() reads back
    }
