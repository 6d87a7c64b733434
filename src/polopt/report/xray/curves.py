"""pass@k of both models as the points of two lines, each with the band of its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 100.0, 100.0  # of the drawing, which is stretched over its place
SIDES = ("before", "after")
TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # where the scale may end


@dataclass(frozen=True)
class Curve:
    """One of the lines."""

    side: str  # before, after
    line: str  # points of a polyline
    band: str  # points of a polygon; empty: no interval is known


def top(rows: Sequence[Mapping[str, Any]]) -> float:
    """Where the scale of the lines ends: the first of some round numbers that holds them."""
    ends = [row[side]["interval"] or [row[side]["value"]] for row in rows for side in SIDES]
    most = max((end[-1] for end in ends), default=0.0)
    return next(one for one in TOPS if one >= min(most, 1.0))


def curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The lines of pass@k, k from left to right, 0 to the top of the scale from below to above."""
    scale = HEIGHT / top(rows)
    last = max(len(rows) - 1, 1)
    xs = [WIDTH * place / last for place in range(len(rows))]
    found = list[Curve]()
    for side in SIDES:
        own = [row[side] for row in rows]
        line = _points(zip(xs, (one["value"] for one in own), strict=True), scale)
        band = ""
        if all(one["interval"] for one in own):
            low, high = zip(*(one["interval"] for one in own), strict=True)
            there, back = zip(xs, high, strict=True), zip(xs[::-1], low[::-1], strict=True)
            band = _points([*there, *back], scale)
        found.append(Curve(side, line, band))
    return found


def _points(points: Iterable[tuple[float, float]], scale: float) -> str:
    return " ".join(f"{x:.2f},{HEIGHT - scale * y:.2f}" for x, y in points)
