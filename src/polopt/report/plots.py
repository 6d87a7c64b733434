"""From metrics to the plots of the page, with their numbers thinned and rounded."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any, TypeGuard

from polopt.report.arrange import arrange
from polopt.report.explain import Plot
from polopt.report.kl import KL, MEASURED
from polopt.report.read import Row
from polopt.report.rung import Mark, marks
from polopt.report.text import with_unit
from polopt.report.turns import TURNS

MAX_POINTS = 3_000  # of a line; more cannot be told apart on a screen
DIGITS = 6  # significant digits of a plotted number
COLOURS, KINDS = 6, 4  # of lines, in the style sheet; kinds: solid and three dashed ones
NEAR = 0.01  # share of the height of a plot: about the width of a line
NOISE = 1e-9  # of its scale: what is smaller is rounding, and drawn as 0
AROUND_ONE = (
    "policy/",
    "behaviour/",
    "lag/",
    "penalty/",
    "kl/",
    "eval/kl",
    "advantage",
)  # their scale is at least 1

Column = list[float | None]


@dataclass(frozen=True)
class Curves:
    """All that is plotted. Lines are named on the page by their label, in ``data`` by position."""

    main: list[Figure]
    folded: list[Figure]
    turns: list[Figure]  # about who waits for whom, and lag
    kl: list[Figure]  # about whether the KL term tells the truth
    data: dict[str, Any]  # for the script: stages, steps, stage of each, plots
    steps_per_point: int  # 1: every step is a point
    not_finite: list[str]  # "policy/loss at step 12"


@dataclass(frozen=True)
class Figure:
    """One plot on the page."""

    index: int  # in data["plots"]
    title: str
    sentence: str
    lines: list[tuple[str, str, int]]  # label, last value as text, kind of line
    summary: str  # the curve in words, for screen readers
    marks: list[Mark]  # alarms that rang


def draw(
    metrics: list[Row],
    alarms: Sequence[Row] = (),
    *,
    in_control: bool = False,
    turns: bool = False,
) -> Curves:
    """Sort ``metrics`` into plots, and prepare their numbers for the script.

    In control there are also the environment steps that were taken until each point.

    Args:
        metrics: of the run.
        alarms: that rang.
        in_control: environments stand in the place of prompts.
        turns: plots about lag have a place of their own, else they are folded.
    """
    points, width = _thin([_on_pairs(row) for row in metrics], MAX_POINTS)
    points = _with_the_missing(points)
    names = list(dict.fromkeys(name for row in points for name in row if is_number(row[name])))
    main, folded = arrange(names, in_control=in_control)
    plots = main + folded
    columns = {name: _column(points, name) for name in names}
    stages = _spans(metrics)
    order = {stage["name"]: position for position, stage in enumerate(stages)}
    rung = [marks(alarms, plot.lines) for plot in plots]
    figures = [
        _figure(index, plot, columns, found)
        for index, (plot, found) in enumerate(zip(plots, rung, strict=True))
    ]
    others = figures[len(main) :]
    of_turns, of_kl = _those(others, TURNS if turns else ()), _those(others, KL)
    return Curves(
        main=figures[: len(main)],
        folded=[figure for figure in others if figure not in (*of_turns, *of_kl)],
        turns=of_turns,
        kl=of_kl,
        data={
            "stages": stages,
            "steps": [row["step"] for row in points],
            "taken": _taken(metrics, points) if in_control else None,
            "stage": [order[_stage(row)] for row in points],
            "plots": [
                _numbers(plot, columns, [_stage(row) for row in points])
                | {"marks": [mark.step for mark in found]}
                for plot, found in zip(plots, rung, strict=True)
            ],
        },
        steps_per_point=width,
        not_finite=[
            f"{name} at step {row['step']}"
            for row in metrics
            for name, value in row.items()
            if isinstance(value, float) and not math.isfinite(value)
        ],
    )


def _those(figures: Sequence[Figure], plots: Sequence[Plot]) -> list[Figure]:
    """The figures of some plots, in the order of the plots."""
    order = [plot.title for plot in plots]
    own = [figure for figure in figures if figure.title in order]
    return sorted(own, key=lambda figure: order.index(figure.title))


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number, and so can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _thin(metrics: list[Row], limit: int) -> tuple[list[Row], int]:
    """Means over so many steps of a stage that about ``limit`` rows are left, and that number."""
    width = math.ceil(len(metrics) / limit) or 1
    if width == 1:
        return metrics, 1
    points: list[Row] = []
    for _, stage in groupby(metrics, key=_stage):
        rows = list(stage)
        points += [_mean(rows[i : i + width]) for i in range(0, len(rows), width)]
    return points, width


def _mean(rows: list[Row]) -> Row:
    mean = dict(rows[-1])
    for name in {name for row in rows for name in row} - {"step", "stage", "stage_step"}:
        values = [row[name] for row in rows if is_number(row.get(name))]
        if values:
            mean[name] = sum(values) / len(values)
    return mean


def _on_pairs(row: Row) -> Row:
    """The accuracy of a reward model is that on pairs, and stands with it."""
    if "eval/calibration_error" not in row or "eval/pair_accuracy" in row:
        return row
    return {name.replace("eval/accuracy", "eval/pair_accuracy"): row[name] for name in row}


def _with_the_missing(points: list[Row]) -> list[Row]:
    """The points, with an empty one where steps of a stage are not on record."""
    found: list[Row] = []
    for _, stage in groupby(points, key=_stage):
        rows = list(stage)
        usual = _usual(b["step"] - a["step"] for a, b in pairwise(rows))
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            found.append(row)
            if after is not None and after["step"] - row["step"] > 1.5 * usual:
                found.append({"step": row["step"] + usual, "stage": _stage(row)})
    return found


def _usual(distances: Iterable[int]) -> int:
    """The most frequent distance, of several the shortest; 1 where there is none."""
    counts = Counter(distances)
    return min((d for d in counts if counts[d] == max(counts.values())), default=1)


def _column(points: list[Row], name: str) -> Column:
    values = [value if is_number(value := row.get(name)) else None for row in points]
    scale = max((abs(value) for value in values if value is not None), default=0.0)
    if name.startswith(AROUND_ONE) and not name.endswith("learning_rate"):
        scale = max(scale, 1.0)
    return [
        None if v is None else 0.0 if abs(v) < NOISE * scale else float(f"{v:.{DIGITS}g}")
        for v in values
    ]


def _gaps(column: Column, stages: Sequence[str]) -> list[int]:
    """The rows at which a line is broken: further apart than usual, its points have none between.

    A metric that is recorded at every n-th step has no gaps there.
    """
    known = [row for row, value in enumerate(column) if value is not None]
    inside = [(a, b) for a, b in pairwise(known) if stages[a] == stages[b]]
    usual = _usual(b - a for a, b in inside)
    return [row for a, b in inside if b - a > usual for row in range(a + 1, b)]


def _spans(metrics: list[Row]) -> list[dict[str, Any]]:
    """First and last step of each stage that has begun; a stage starts where the last one ends."""
    spans: list[dict[str, Any]] = []
    for name in dict.fromkeys(_stage(row) for row in metrics):
        steps = [row["step"] for row in metrics if _stage(row) == name]
        start = spans[-1]["end"] if spans else steps[0]
        spans.append({"name": name, "start": start, "end": steps[-1]})
    return spans


def _taken(metrics: list[Row], points: list[Row]) -> list[float]:
    """Steps in environments until each of the points."""
    taken: dict[int, float] = {}
    total = 0.0
    for row in metrics:
        total += row["steps"] if is_number(row.get("steps")) else 0.0
        taken[row["step"]] = total
    until = [taken.get(row["step"], 0.0) for row in points]
    return list(accumulate(until, max))  # at a step that is not on record, as before it


def _stage(row: Row) -> str:
    return str(row.get("stage", ""))


def _dashes(plot: Plot, columns: dict[str, Column]) -> list[int]:
    """The kind of each line: 0 is solid, 1 to 3 are dashed in three ways.

    Beyond the number of colours, lines take the next kind; within it, a line that coincides with
    earlier ones is dashed, so that those can be seen under it.
    """
    names = list(plot.lines)
    if len(names) > COLOURS or plot.stacked:
        return [i // COLOURS % KINDS for i in range(len(names))]
    known = [value for name in names for value in columns[name] if value is not None]
    near = NEAR * (max(known) - min(known)) if known else 0.0
    dashes: list[int] = []
    drawn: list[Column] = []  # the lines before
    for name in names:
        under = sum(_runs_on(columns[name], column, near) for column in drawn)
        dashes.append(0 if _in_points(name) else min(KINDS - 1, under))
        drawn += [] if _in_points(name) else [columns[name]]
    return dashes


def _runs_on(one: Column, other: Column, near: float) -> bool:
    """Whether two lines coincide on at least half of the points that both have."""
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return bool(gaps) and 2 * sum(gap <= near for gap in gaps) >= len(gaps)


def _in_points(name: str) -> bool:
    """Whether a metric is measured only at some steps, and drawn as points."""
    return name.startswith("eval/") or name in MEASURED


def _numbers(plot: Plot, columns: dict[str, Column], stages: Sequence[str]) -> dict[str, Any]:
    return {
        "unit": plot.unit,
        "top": plot.top,
        "stacked": plot.stacked,
        "lines": [
            {
                "values": columns[name],
                "points": _in_points(name),
                "dash": dash,
                "gaps": [] if _in_points(name) else _gaps(columns[name], stages),
                "low": columns.get(f"{name}_low"),
                "high": columns.get(f"{name}_high"),
            }
            for name, dash in zip(plot.lines, _dashes(plot, columns), strict=True)
        ],
    }


def _figure(index: int, plot: Plot, columns: dict[str, Column], rung: list[Mark]) -> Figure:
    lines: list[tuple[str, str, int]] = []
    words: list[str] = []
    for (name, label), dash in zip(plot.lines.items(), _dashes(plot, columns), strict=True):
        values = [value for value in columns[name] if value is not None]
        first, last, low, high = (
            with_unit(value, plot.unit)
            for value in (values[0], values[-1], min(values), max(values))
        )
        lines.append((label, last, dash))
        words.append(f"{label} from {first} to {last}, lowest {low}, highest {high}")
    summary = f"{plot.title}: {'; '.join(words)}."
    return Figure(index, plot.title, plot.sentence, lines, summary, rung)
