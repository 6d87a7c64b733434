"""What a recipe resolves to, before models and data load: settings, sizes, inert settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polopt.algorithms import row
from polopt.cluster.placement import clustered, placement
from polopt.diagnose.layout import Layout, layout
from polopt.diagnose.machine import found, told
from polopt.diagnose.planning import UNPLANNED, device_of_each, plan_of, ranks_of
from polopt.diagnose.requirements import check_requirements
from polopt.errors import ModelError
from polopt.memory.ways import refusal
from polopt.memory.work import Device
from polopt.recipe import Recipe, StageRecipe, load
from polopt.recipe.fields import given
from polopt.recipe.flags import Flags
from polopt.resolution import derived, describe, inert, resolve, settings


def check(
    recipe: str | Path | Mapping[str, Any],
    flags: Flags = (),
    device_memory: float | None = None,
) -> list[dict[str, Any]]:
    """One table a stage: ``stage, algorithm, row, settings, decided_by, derived, inert`` and more.

    ``decided_by`` says of every setting whether the recipe, the row or the default decided it.
    ``memory`` is the plan (:class:`polopt.memory.plan.Plan`), or the reason why there is none.
    ``layout`` says whether rows of the model are packed (:class:`polopt.diagnose.layout.Layout`);
    None in control. ``placement`` says what each process of mode cluster gets
    (:class:`polopt.cluster.placement.Part`).

    Args:
        recipe: a TOML file, or the same tables.
        flags: override fields.
        device_memory: GiB of a CUDA device to plan for; default: the device that a run would use.

    Raises:
        RecipeError: the recipe cannot be run as it stands.
        MissingExtraError: it needs an optional package that is not installed.
    """
    written = load(recipe, flags)
    resolved = resolve(written)
    check_requirements(resolved, here=device_memory is None)
    card = None if device_memory is None else told(device_memory)
    layouts = dict[tuple[str, str | None], Layout]()
    return [
        _checked(*pair)
        | {"memory": _memory(resolved, index, card), "layout": _layout(pair[1], layouts)}
        | {"placement": _placement(pair[1])}
        for index, pair in enumerate(zip(written.stages, resolved.stages, strict=True))
    ]


def _placement(stage: StageRecipe) -> list[dict[str, Any]]:
    """Who gets what in mode cluster."""
    device = found(stage.run.device, stage.run.threads) if clustered(stage) else None
    return placement(stage, cuda=device is not None and device.kind == "cuda")


def _layout(
    stage: StageRecipe, known: dict[tuple[str, str | None], Layout]
) -> dict[str, Any] | None:
    """How the rows of a stage are laid out; each model is asked once."""
    if stage.domain != "text":
        return None
    asked = (stage.model.path, stage.model.revision)
    if asked not in known:
        known[asked] = layout(*asked)
    return {**asdict(known[asked]), "text": str(known[asked])}


def _memory(recipe: Recipe, index: int, card: Device | None) -> dict[str, Any] | str:
    """The memory plan of a stage, or why there is none."""
    stage = recipe.stages[index]
    if stage.domain != "text":
        return UNPLANNED
    device = card or found(stage.run.device, stage.run.threads)
    if device is None:
        return f"this machine has no {stage.run.device}; --device-memory plans for a card"
    ranks = ranks_of(recipe)
    device = device_of_each(device, ranks)
    try:
        asked, made = plan_of(recipe, index, ranks, device)
    except ModelError as error:  # no configuration: the rest of the check stands
        return str(error)
    refused = "" if made.fits else refusal(asked.work, made, "model.path")
    return {**made.as_json(), "refusal": refused}


def _checked(written: StageRecipe, resolved: StageRecipe) -> dict[str, Any]:
    values = settings(resolved)
    stated = given(written)
    return {
        "stage": resolved.name,
        "algorithm": resolved.algorithm,
        "row": describe(resolved),
        "settings": values,
        "decided_by": {field: _who(field, written, stated) for field in values},
        "derived": derived(resolved),
        "inert": inert(resolved),
    }


def _who(field: str, written: StageRecipe, stated: set[str]) -> str:
    if field in stated:
        return "recipe"
    return "row" if field in row(written.algorithm).defaults(written.domain) else "default"
