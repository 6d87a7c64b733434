"""The page of an evaluation: its table with intervals, and the first answers of each data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polopt.report.page import standalone
from polopt.report.plots import is_number
from polopt.report.read import Row
from polopt.report.samples import Answers, Prompt, Turn, common_system, first, judged
from polopt.report.text import number

SHARES = ("accuracy", "pass@", "majority@", "truncated")  # beginnings of names: from 0 to 1


@dataclass(frozen=True)
class Cell:
    """A figure of a data set, and where it is on the axis of its metric: 0 left, 1 right."""

    title: str
    value: str
    interval: str  # in words; empty: none is known
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """One metric on every data set, on one axis."""

    name: str
    ends: tuple[str, str]  # of the axis
    cells: list[Cell]


def render(target: str, version: str, table: Sequence[Row], answers: list[Row]) -> str:
    """The page as HTML.

    Args:
        target: what was evaluated.
        version: of polopt.
        table: an entry for each data set: ``data``, ``seen``, ``n``, and ``figures`` by name, each
            with ``value`` and ``interval``.
        answers: lines as in samples.jsonl, with the ``data`` and ``seen`` that they belong to.
    """
    system = common_system(answers)
    names = dict.fromkeys(name for entry in table for name in entry["figures"])
    return standalone(
        "evaluation.html.j2",
        ("evaluation.css",),
        target=target,
        version=version,
        sets=[(_title(entry), entry["n"]) for entry in table],
        metrics=[_metric(name, table) for name in names],
        samples=[(_title(entry), _first(entry, answers, system)) for entry in table],
        system=system,
        judged=judged(answers),
    )


def _title(entry: Row) -> str:
    return f"{entry['data']} ({entry['seen']})" if entry["seen"] else str(entry["data"])


def _first(entry: Row, answers: list[Row], system: Turn | None) -> list[tuple[Prompt, Answers]]:
    of = (entry["data"], entry["seen"])
    return first([line for line in answers if (line["data"], line["seen"]) == of], system)


def _metric(name: str, table: Sequence[Row]) -> Metric:
    known = [entry for entry in table if name in entry["figures"]]
    low, high = _axis(name, known)

    def at(value: float) -> float:
        return (value - low) / (high - low)

    cells: list[Cell] = []
    for entry in known:
        value, interval = entry["figures"][name]["value"], entry["figures"][name]["interval"]
        ends = interval or (value, value)
        said = f"{number(ends[0])} to {number(ends[1])}" if interval else ""
        cells.append(Cell(_title(entry), number(value), said, at(value), at(ends[0]), at(ends[1])))
    return Metric(name, (number(low), number(high)), cells)


def _axis(name: str, known: Sequence[Row]) -> tuple[float, float]:
    """From 0 to 1 of a share, else from the lowest to the highest end of an interval."""
    if name.startswith(SHARES):
        return 0.0, 1.0
    found = [entry["figures"][name] for entry in known]
    ends = [x for f in found for x in (f["value"], *(f["interval"] or ()))]
    finite = [x for x in ends if is_number(x) and math.isfinite(x)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
