"""Curves of arms as the points of lines and bands, on a common scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.report.changes import Scale, around
from polopt.report.plots import COLOURS, KINDS

Json = Mapping[str, Any]
WIDTH, HEIGHT = 100.0, 100.0  # of a drawing, which is stretched over its place


@dataclass(frozen=True)
class Line:
    """The curve of an arm."""

    name: str
    look: str  # classes of its colour and its dashes
    line: str  # points of a polyline
    band: str  # points of a polygon; empty: no interval is known
    runs: list[str]  # points of a polyline for each run


@dataclass(frozen=True)
class Drawing:
    """All arms on one scale."""

    lines: list[Line]
    scale: Scale


def scale_of(values: Sequence[float]) -> Scale:
    """Round numbers around all values; where they are one number, it and what is around it."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return around(values) if low < high else Scale(min(0.0, low), max(1.0, high))


def drawing(arms: Sequence[Json], budget: float, curve: str) -> Drawing:
    """The lines of all arms.

    Args:
        arms: of the comparison.
        budget: where the scale from left to right ends.
        curve: ``curve`` or ``training_curve``.
    """
    every = [point for arm in arms for point in arm[curve]]
    ends = [x for point in every for x in (point["value"], *(point["interval"] or ()))]
    own = curve == "curve"
    ends += [y for arm in arms for run in arm["runs"] if own for _, y in run["curve"]]
    scale = scale_of(ends)

    def points(of: Iterable[tuple[float, float]]) -> str:
        return " ".join(
            f"{WIDTH * x / budget:.2f},{HEIGHT * (1 - scale.share(y)):.2f}" for x, y in of
        )

    lines = list[Line]()
    for place, arm in enumerate(arms):
        rows = arm[curve]
        xs, band = [row["at"] for row in rows], ""
        if rows and all(row["interval"] for row in rows):
            low, high = zip(*(row["interval"] for row in rows), strict=True)
            there, back = zip(xs, high, strict=True), zip(xs[::-1], low[::-1], strict=True)
            band = points([*there, *back])
        line = points(zip(xs, (row["value"] for row in rows), strict=True))
        runs = [points(run["curve"]) for run in arm["runs"] if own and run["curve"]]
        lines.append(Line(arm["name"], look(place), line, band, runs))
    return Drawing(lines, scale)


def look(place: int) -> str:
    """Colour and dashes of the arm at a place: after six colours come dashed lines."""
    return f"l{place % COLOURS} s{place // COLOURS % KINDS}"
