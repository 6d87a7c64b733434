"""The one change that a resumed run allows: a longer last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt.api.recorded import recorded
from polopt.coordination import checkpoint
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, dump
from polopt.recipe.flags import pairs
from polopt.record import write_json
from polopt.resolution import settings

Flags = Sequence[str] | Mapping[str, Any]


def extend(run: Path, config: dict[str, Any], flags: Flags) -> None:
    """Write the new length of the last stage into config.json.

    Raises:
        RecipeError: another field, no whole number, or fewer steps than the run was made for.
    """
    if not flags:
        return
    steps = _steps(flags)
    stages = recorded(config).stages
    last = stages[-1]
    assert last.run.steps is not None, "resolved"
    if steps < last.run.steps:
        raise RecipeError(
            f"run.steps: {steps} is not allowed; a resumed run can only be made longer than "
            f"{last.run.steps}, and this one stands at {_standing(run, stages)}"
        )
    field = "run.steps" if len(stages) == 1 else f"{last.name}.run.steps"
    longer = recorded(config, {field: steps})
    config["recipe"] = dump(longer)
    config["stages"][-1]["settings"] = settings(longer.stages[-1])
    write_json(run / "config.json", config)


def _standing(run: Path, stages: Sequence[StageRecipe]) -> str:
    """The step of the newest checkpoint, in words."""
    newest = checkpoint.newest(run / "checkpoints")
    if newest is None:
        return "its beginning"
    progress = checkpoint.read_state(newest)["progress"]
    if progress["stage"] == len(stages):
        return "its end"
    of_stage = f" of {stages[progress['stage']].name}" if len(stages) > 1 else ""
    return f"step {progress['stage_step']}{of_stage}"


def flag_values(flags: Flags) -> dict[str, Any]:
    """Flags by dotted name, from the words of a command line or a mapping."""
    return dict(flags) if isinstance(flags, Mapping) else dict(pairs(list(flags)))


def without(flags: Flags, field: str) -> Flags:
    """The other flags, as they are: words stay words, whose values are still to be parsed."""
    if isinstance(flags, Mapping):
        return {name: value for name, value in flags.items() if name != field}
    return [f"--{name}={value}" for name, value in pairs(list(flags)) if name != field]


def _steps(flags: Flags) -> int:
    given = flag_values(flags)
    for name in given:
        if name != "run.steps":
            raise RecipeError(f"{name}: cannot change when a run is resumed; only run.steps can")
    value = str(given["run.steps"])
    if not value.isdecimal():
        raise RecipeError(f"run.steps: {value!r} is not allowed; a whole number >= 1")
    return int(value)
