"""What a run would hold, and who would wait for whom: answers without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polopt.recipe import load as load_recipe
from polopt.resolution import resolve

RecipeSource = str | Path | Mapping[str, Any]
Flags = Sequence[str] | Mapping[str, Any]


def fit(model: str, *, memory: float | None = None) -> dict[str, Any]:
    """What trains on a card: every way of training, with the longest answers that fit.

    Args:
        model: a directory that holds a ``config.json``, a built-in model, or a hub id.
        memory: GiB of a CUDA card; default: the device that a run would use.

    Raises:
        ModelError: its configuration cannot be read.
        RecipeError: no size of a card.
    """
    from polopt.diagnose.machine import found, told
    from polopt.memory.fit import ASKED, fits
    from polopt.memory.stage import shape_named

    shape = shape_named("MODEL", model)
    device = found("auto") if memory is None else told(memory, "--memory")
    assert device is not None, "auto is always there"
    return {
        "model": model,
        "architecture": shape.kind,
        "parameters": shape.parameters,
        "known": shape.known,
        "device": device.as_json(),
        "asked": ASKED,
        "ways": [one.entry for one in fits(shape, device)],
    }


def simulate(
    recipe: RecipeSource,
    *,
    flags: Flags = (),
    trace: str | Path | None = None,
    given: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[int]] | None = None,
    max_lag: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Predict idle shares, lag, throughput and cost of ways to coordinate a run.

    Nothing is generated or trained: the ledger of a run is driven by a simulated clock, for the
    last stage of the recipe that samples responses.

    Args:
        recipe: as in :func:`train`.
        flags: as in :func:`train`.
        trace: the directory of a run whose record has what is not given.
        given: what parts cost, by the names of
            :class:`polopt.diagnose.simulation.given.Given`; the rest is recorded, or assumed.
        vary: lists of ``staleness, window, engines, trainers``; by default around the recipe's own.
        max_lag: the largest lag that a recommended setting may allow.
        seed: of lengths and seconds.
        out: a page (``.html``) or a plot (``.png``, ``.svg``) to write.

    Returns:
        ``said``: what was recorded or assumed; ``replayed``: recorded and simulated figures of the
        traced run; ``settings``: one table each; ``recommended``: its place among them; ``reason``.

    Raises:
        UserError: a figure, a list or a record that cannot be used.
    """
    resolved = resolve(load_recipe(recipe, flags), own_reward=True)
    from polopt.diagnose.simulation.ask import simulated
    from polopt.diagnose.simulation.given import Given
    from polopt.diagnose.simulation.grid import Grid
    from polopt.diagnose.simulation.page import check_plot, plot

    if out is not None:
        check_plot(Path(out))
    found = simulated(
        resolved,
        Given(**given or {}),
        Grid(**vary or {}),
        trace=None if trace is None else Path(trace),
        max_lag=max_lag,
        seed=seed,
    )
    if out is not None:
        plot(found, Path(out))
    return found
