"""Settings that are allowed and have done nothing so far, by counting in the metrics of a run.

What is known before a run stands in :mod:`polopt.resolution.inert`; none of it is told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from polopt.choices.section import Counted, Inert, Series
from polopt.errors import UserError
from polopt.recipe import StageRecipe, load, shown
from polopt.recipe.contradictions import reward_name
from polopt.recipe.fields import fact, flat
from polopt.resolution.describe import settings
from polopt.resolution.resolve import resolve

ENOUGH = 20  # steps, below which nothing is said
_WHOLE = ("reward/mean", "reward/std", "reward/greedy")  # not of one reward


def did_nothing(stage: StageRecipe, lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each such setting of a resolved stage; the field stands first.

    Args:
        stage: resolved.
        lines: of its metrics so far.
    """
    steps = [line for line in lines if line.get("stage_step")]
    if len(steps) < ENOUGH:
        return []
    values, series = flat(stage), _series(steps)
    said = [
        (f"{field} = {shown(value)}", reason)
        for field, value in settings(stage).items()
        if value and (reason := _shown(field, values, series)) is not None
    ]
    said += [
        (f"reward {name}", f"it was {value:g} all the time") for name, value in _flat(stage, series)
    ]
    return [f"{what} did nothing in {len(steps)} steps: {reason}" for what, reason in said]


def did_nothing_in(
    config: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """The lines of each stage that has some, of a run by its ``config.json``.

    Nothing is said of a run whose recipe this version does not read.
    """
    try:
        own_reward = config.get("reward_from_python") is not None
        recipe = resolve(load(config["recipe"]), own_reward=own_reward)
    except (KeyError, UserError):
        return {}
    rows = list(lines)
    found = {
        stage.name: did_nothing(stage, [row for row in rows if row.get("stage") == stage.name])
        for stage in recipe.stages
    }
    return {name: said for name, said in found.items() if said}


def _series(steps: Iterable[Mapping[str, Any]]) -> Series:
    found = dict[str, list[float]]()
    for line in steps:
        for name, value in line.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(float(value))
    return found


def _shown(field: str, values: Mapping[str, Any], series: Series) -> str | None:
    """What the steps show of a field; None where it acts, or where it is known why it cannot."""
    one, known = fact(field, Counted), fact(field, Inert)
    if one is None or (known is not None and known.reason(values) is not None):
        return None
    return one.shows(values, series) if all(m in series for m in one.metrics) else None


def _flat(stage: StageRecipe, series: Series) -> Iterator[tuple[str, float]]:
    """The rewards that count and gave every response of every step the same, and what that is.

    A mean that stays is not enough: a reward that ranks the responses to a prompt has one, and is
    all that there is to learn from. Nothing is said where no step has told how much it spread.
    """
    # Not earned, or earned at tokens, of which no metric tells.
    others = {reward_name(one) for one in stage.rewards if not one.weight or one.per_token}
    for metric, values in series.items():
        name = metric.removeprefix("reward/")
        if name == metric or metric in _WHOLE or name in others or len(values) < ENOUGH:
            continue
        rounding = 1e-9 * max(1.0, abs(max(values)))
        spreads = series.get(f"reward_std/{name}", ())
        told = len(spreads) == len(values)  # not of steps that an older version took
        if told and max(values) - min(values) <= rounding and max(spreads) <= rounding:
            yield name, values[0]
