"""What a resumed run may do otherwise: make its last stage longer, and run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt.api.recorded import recorded
from polopt.choices.section import either
from polopt.coordination import checkpoint
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe, dump
from polopt.recipe.flags import pairs
from polopt.record import write_json
from polopt.resolution import settings

Flags = Sequence[str] | Mapping[str, Any]
STEPS = "run.steps"
PROCESSES = ("engines", "trainers", "engine_devices", "dashboard", "insecure")
ALLOWED = (STEPS, *(f"coordination.{name}" for name in PROCESSES))


def adjust(run: Path, config: dict[str, Any], flags: Flags) -> None:
    """Write the new length of the last stage, and the processes that it now has, to config.json.

    Raises:
        RecipeError: another field, a value that is not allowed, or fewer steps than the run was
            made for.
    """
    if not flags:
        return
    stages = recorded(config).stages
    names = {stage.name for stage in stages}
    for name in flag_values(flags):
        of, _, field = name.removeprefix("stage.").partition(".")
        if (field if of in names else name) not in ALLOWED or (of in names and field == STEPS):
            raise RecipeError(
                f"{name}: cannot change when a run is resumed; only {STEPS} can, and "
                f"coordination.{either(PROCESSES)}"
            )
    last, changes = stages[-1], without(flags, STEPS)
    for name in flag_values(changes):
        if name in ALLOWED:
            changes = _of_stages(changes, name, stages)
    changed = recorded(config, changes)
    if (given := flag_values(flags).get(STEPS)) is not None:
        steps = _longer(str(given), run, stages)
        field = STEPS if len(stages) == 1 else f"{last.name}.{STEPS}"
        changed = recorded({**config, "recipe": dump(changed)}, {field: steps})
    config["recipe"] = dump(changed)
    for told, stage in zip(config["stages"], changed.stages, strict=True):
        told["settings"] = settings(stage)
    write_json(run / "config.json", config)


def _of_stages(flags: Flags, field: str, stages: Sequence[StageRecipe]) -> Flags:
    """A flag of all stages as one of each stage that generates while it trains."""
    aside = [one.name for one in stages if one.coordination.mode != "alternate"]
    if len(stages) == 1 or not aside:
        return flags
    fields, value = [f"{name}.{field}" for name in aside], flag_values(flags)[field]
    rest = without(flags, field)
    if isinstance(rest, Mapping):
        return {**rest, **dict.fromkeys(fields, value)}
    return [*rest, *(f"--{one}={value}" for one in fields)]


def _longer(given: str, run: Path, stages: Sequence[StageRecipe]) -> int:
    """The steps that the last stage is to have.

    Raises:
        RecipeError: no whole number, or fewer than it has.
    """
    has = stages[-1].run.steps
    assert has is not None, "resolved"
    if not given.isdecimal():
        raise RecipeError(f"{STEPS}: {given!r} is not allowed; a whole number >= 1")
    if int(given) < has:
        raise RecipeError(
            f"{STEPS}: {given} is not allowed; a resumed run can only be made longer than {has}, "
            f"and this one stands at {_standing(run, stages)}"
        )
    return int(given)


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
