"""The page: what the template needs, from the JSON of ``polopt.compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from polopt.memory.plan import gib
from polopt.report.changes import Scale
from polopt.report.compare.drawn import drawing, look, scale_of
from polopt.report.compare.words import estimate, said, sentence
from polopt.report.page import standalone
from polopt.report.text import duration, number, setting

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """The figure of an arm, on the axis that all of them share; 0 is its left end, 1 the right."""

    name: str
    look: str
    score: str
    before: str
    training: str
    at: float | None
    low: float | None
    high: float | None
    runs: list[float]
    finished: int
    failed: int


@dataclass(frozen=True)
class Cost:
    """What an arm took, in words."""

    name: str
    steps: str
    spent: str
    seconds: str
    rate: str
    to_budget: str
    memory: str


def render(found: Json) -> str:
    """The page as HTML."""
    arms = found["arms"]
    names = [arm["name"] for arm in arms]
    return standalone(
        "compare.html.j2",
        ("compare.css",),
        version=found["polopt"],
        found=found,
        names=names,
        looks=[look(place) for place in range(len(arms))],
        sentence=sentence(found),
        **({} if found["metric"] is None else _judged(found)),
        differences=_differing(found),
        runs=[(arm["name"], run) for arm in arms for run in arm["runs"]],
        failed=[(arm["name"], r) for arm in arms for r in arm["runs"] if r["status"] == "failed"],
        few=any(arm["finished"] < found["least_runs"] for arm in arms),
        said=partial(said, found),
        number=number,
    )


def _judged(found: Json) -> dict[str, Any]:
    """What there is to see where a run ended: curves, scores, who is better, and what it took."""
    arms, budget = found["arms"], found["budget"]["value"]
    trained = found["training"] is not None
    bars, scale = _bars(found)
    return {
        "curves": drawing(arms, budget, "curve"),
        "training": drawing(arms, budget, "training_curve") if trained else None,
        "bars": bars,
        "ends": (said(found, scale.low), said(found, scale.high)),
        "matrix": _matrix(found),
        "costs": [_cost(arm) for arm in arms],
    }


def _bars(found: Json) -> tuple[list[Bar], Scale]:
    arms = found["arms"]
    every = [x for arm in arms for x in _numbers(arm)]
    scale = scale_of(every)
    bars = list[Bar]()
    for place, arm in enumerate(arms):
        value, interval = arm["score"]["value"], arm["score"]["interval"] or (None, None)
        training = arm["training"]
        bars.append(
            Bar(
                name=arm["name"],
                look=look(place),
                score=estimate(found, arm["score"]),
                before=estimate(found, arm["before"]),
                training="–" if training["value"] is None else number(training["value"]),
                at=None if value is None else scale.share(value),
                low=None if interval[0] is None else scale.share(interval[0]),
                high=None if interval[1] is None else scale.share(interval[1]),
                runs=[scale.share(r["score"]) for r in arm["runs"] if r["score"] is not None],
                finished=arm["finished"],
                failed=arm["failed"],
            )
        )
    return bars, scale


def _numbers(arm: Json) -> list[float]:
    known = [arm["score"]["value"], *(arm["score"]["interval"] or ())]
    known += [run["score"] for run in arm["runs"]]
    return [value for value in known if value is not None]


def _matrix(found: Json) -> list[tuple[str, list[tuple[str, int] | None]]]:
    """Row by row how likely an arm is better than that of the column, and its shade in tenths."""
    of = {(one["arm"], one["over"]): one for one in found["improvement"]}
    names = [arm["name"] for arm in found["arms"]]
    rows = list[tuple[str, list[tuple[str, int] | None]]]()
    for name in names:
        cells = list[tuple[str, int] | None]()
        for other in names:
            one = of.get((name, other))
            if one is None or one["value"] is None:
                cells.append(None)
            else:
                cells.append((_probability(one), round(10 * one["value"])))
        rows.append((name, cells))
    return rows


def _probability(one: Json) -> str:
    value = f"{one['value']:.2f}"
    if not one["interval"]:
        return value
    low, high = (f"{end:.2f}" for end in one["interval"])
    return f"{value} ({low} to {high})"


def _cost(arm: Json) -> Cost:
    spent, seconds = arm["spent"], arm["seconds"]
    known = arm["finished"] > 0
    return Cost(
        name=arm["name"],
        steps=f"{arm['steps']:,.0f}" if known else "–",
        spent=f"{spent:,.0f}" if known else "–",
        seconds=duration(seconds) if known else "–",
        rate=number(spent / seconds) if known and seconds else "–",
        to_budget=duration(arm["seconds_to_budget"]) if known else "–",
        memory="–" if arm["memory"] is None else gib(arm["memory"]),
    )


def _differing(found: Json) -> list[tuple[str, list[str]]]:
    """Settings that differ, as text; the method has its name on the page."""
    rows = [row for row in found["differences"] if row["field"] != "algorithm"]
    return [(row["field"], list(map(_cell, row["values"]))) for row in rows]


def _cell(value: object) -> str:
    return "–" if value is None else setting(value)
