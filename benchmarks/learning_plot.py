"""Draws what learning.py measured: all rows side by side, and the curve of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from curve import STYLE
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"
BEFORE, AFTER = "#9a9a9a", "#1f6fb2"
INTERVAL = {"linewidth": 5, "alpha": 0.3, "color": AFTER, "solid_capstyle": "butt"}
MEAN = {"marker": "|", "linestyle": "", "color": AFTER, "markersize": 11, "markeredgewidth": 1.6}
COLUMNS = 5

Result = Mapping[str, Any]


def draw(results: Sequence[Result], *, bar: float, images: Path = IMAGES) -> None:
    """Both plots as SVG files; the same results give the same files."""
    images.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Description": fingerprint(results)}
    with pyplot.rc_context(STYLE):
        for name, figure in (
            ("learning.svg", rows(results, bar)),
            ("learning_curves.svg", curves(results, bar)),
        ):
            figure.savefig(images / name, metadata=metadata)
            pyplot.close(figure)


def fingerprint(results: Sequence[Result]) -> str:
    """A hash of what is drawn; it stands in the plots."""
    drawn = [(one["row"], one["accuracy_before"], one["score"], one["curves"]) for one in results]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def rows(results: Sequence[Result], bar: float) -> Figure:
    """A line for each row: dots are seeds, the bar is the interval of their IQM; twice."""
    figure, (whole, top) = pyplot.subplots(
        1, 2, figsize=(8.2, 0.9 + 0.22 * len(results)), sharey=True, width_ratios=(3, 2)
    )
    for axis in (whole, top):
        for place, one in enumerate(results):
            _row(axis, place, one)
        axis.axvline(bar, color="black", linewidth=0.8, linestyle="--")
        axis.tick_params(axis="y", length=0)
    whole.set_yticks(range(len(results)), [one["row"] for one in results])
    whole.set_ylim(len(results) - 0.4, -0.6)
    whole.set_xlim(0.0, 1.01)
    whole.set_xlabel("accuracy on 512 unseen prompts")
    top.set_xlim(bar - 0.01, 1.001)
    top.set_xlabel("its upper end")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    figure.legend(handles=_legend(), frameon=False, ncols=5, fontsize=8, loc="upper center")
    return figure


def _row(axis: Axes, place: int, one: Result) -> None:
    lines = [place] * len(one["seeds"])
    axis.plot(one["accuracy_before"], lines, "o", color=BEFORE, markersize=3.5)
    axis.plot(one["score"]["interval"], [place] * 2, **INTERVAL)
    axis.plot(one["accuracy_after"], lines, "o", color=AFTER, markersize=3.5)
    axis.plot([one["score"]["value"]], [place], **MEAN)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], marker="o", ls="", ms=3.5, color=BEFORE, label="a seed before"),
        Line2D([], [], marker="o", ls="", ms=3.5, color=AFTER, label="a seed after"),
        Line2D([], [], **MEAN, label="interquartile mean"),
        Line2D([], [], **INTERVAL, label="its 95 % bootstrap"),
        Line2D([], [], lw=0.8, ls="--", color="black", label="to be reached"),
    ]


def curves(results: Sequence[Result], bar: float) -> Figure:
    """A small panel for each row: accuracy against tokens generated, a line for each seed."""
    lines = -(-len(results) // COLUMNS)
    figure, axes = pyplot.subplots(
        lines, COLUMNS, figsize=(8.2, 1.25 * lines + 0.5), sharex=True, sharey=True, squeeze=False
    )
    panels: list[Axes] = list(axes.flat)
    for axis, one in zip(panels, results, strict=False):
        for curve in one["curves"]:
            axis.plot(*zip(*curve, strict=True), color=AFTER, linewidth=0.9)
        axis.axhline(bar, color="black", linewidth=0.6, linestyle="--")
        axis.set_title(one["row"], fontsize=8, pad=3)
        axis.set_ylim(0, 1.02)
        axis.set_xticks((0, 10_000, 20_000))
    for axis in panels[len(results) :]:
        axis.set_visible(False)
    for place in range(len(results) - COLUMNS, len(results)):  # the last panel of each column
        panels[place].tick_params(labelbottom=True)
    figure.supxlabel("tokens generated to train on", fontsize=9)
    figure.supylabel("accuracy on 512 unseen prompts", fontsize=9)
    figure.tight_layout()
    return figure
