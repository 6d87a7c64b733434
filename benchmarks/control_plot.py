"""Draws what control.py measured: the returns of training, one panel for each cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from control_one import OURS, THEIRS
from curve import STYLE
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polopt.diagnose.compare.statistics import iqm

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"
PLOT = "control_results.svg"
COLOURS = {OURS: "#1f6fb2", THEIRS: "#d9822b"}
NAMES = {OURS: "polopt", THEIRS: "Stable-Baselines3"}
COLUMNS = 4

Result = Mapping[str, Any]


def draw(results: Sequence[Result], *, images: Path = IMAGES) -> None:
    """The plot as an SVG file; the same results give the same file."""
    images.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        figure = panels(results)
        metadata = {"Date": None, "Description": fingerprint(results)}
        figure.savefig(images / PLOT, metadata=metadata)
        pyplot.close(figure)


def fingerprint(results: Sequence[Result]) -> str:
    """A hash of what is drawn; it stands in the plot."""
    drawn = [(one["cell"], one[lib]["curve"]) for one in results for lib in COLOURS if lib in one]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def panels(results: Sequence[Result]) -> Figure:
    """Thin lines are seeds, thick ones their interquartile mean."""
    lines = -(-len(results) // COLUMNS)
    figure, axes = pyplot.subplots(lines, COLUMNS, figsize=(8.6, 1.75 * lines + 0.5), squeeze=False)
    for axis, one in zip(axes.flat, results, strict=False):
        for library in COLOURS:
            if library in one:
                _curves(axis, one[library]["curve"], COLOURS[library])
        axis.axhline(one["chance"], color="black", linewidth=0.6, linestyle=":")
        axis.set_title(one["cell"], fontsize=8, pad=3)
        axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k")
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(results) :]:
        axis.set_visible(False)
    figure.supxlabel("steps in environments", fontsize=9)
    figure.supylabel("return of training episodes", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    figure.legend(handles=_legend(), frameon=False, ncols=3, fontsize=8, loc="upper center")
    return figure


def _curves(axis: Axes, curves: Sequence[Sequence[tuple[int, float]]], colour: str) -> None:
    together: dict[int, list[float]] = {}
    for curve in curves:
        axis.plot(*zip(*curve, strict=True), color=colour, linewidth=0.6, alpha=0.35)
        for steps, value in curve:
            together.setdefault(steps, []).append(value)
    whole = sorted((s, iqm(v)) for s, v in together.items() if len(v) == len(curves))
    if whole:
        axis.plot(*zip(*whole, strict=True), color=colour, linewidth=1.6)


def _legend() -> list[Line2D]:
    known = [Line2D([], [], color=COLOURS[lib], lw=1.6, label=NAMES[lib]) for lib in COLOURS]
    return [*known, Line2D([], [], lw=0.6, ls=":", color="black", label="at random")]
