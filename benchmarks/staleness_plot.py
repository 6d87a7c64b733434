"""Draws what staleness.py measured: reward against simulated time, and what each answer ends at."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from curve import STYLE
from matplotlib import pyplot
from matplotlib.axes import Axes

IMAGE = Path(__file__).resolve().parents[1] / "docs" / "img" / "staleness.svg"
COLOURS = {0: "black", 1: "#1f6fb2", 2: "#e08a1e", 4: "#b2321f"}
FINE = 60  # points of a mean curve

Result = Mapping[str, Any]


def draw(results: Result, image: Path = IMAGE) -> None:
    """The plot as an SVG file; the same results give the same file."""
    runs = results["runs"]
    with pyplot.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.2, 3.2), width_ratios=(3, 2))
        curves(left, runs)
        ends(right, runs)
        figure.tight_layout()
        metadata = {"Date": None, "Description": fingerprint(runs)}
        figure.savefig(image, metadata=metadata)
        pyplot.close(figure)


def fingerprint(runs: Sequence[Result]) -> str:
    """A hash of what is drawn; it stands in the plot."""
    drawn = [(one["staleness"], one["answer"], one["seed"], one["curve"]) for one in runs]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def of(runs: Sequence[Result], staleness: int, answer: str) -> list[Result]:
    """The runs of a cell."""
    return [one for one in runs if (one["staleness"], one["answer"]) == (staleness, answer)]


def curves(axis: Axes, runs: Sequence[Result]) -> None:
    """Mean reward over the seeds against simulated time, without an answer and with all."""
    for staleness, colour in COLOURS.items():
        for answer, style in (("none", "-"), ("all", ":")):
            if cell := of(runs, staleness, answer):
                axis.plot(*mean_curve(cell), color=colour, linestyle=style, linewidth=1.2)
        axis.plot([], [], color=colour, label=f"S = {staleness}")
    axis.plot([], [], color="grey", linestyle=":", label="all answers")
    axis.set_xlabel("simulated time")
    axis.set_ylabel("reward of what is generated")
    axis.legend(frameon=False, fontsize=7)


def mean_curve(cell: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Points at equal times up to the end of the shortest run; each seed is smoothed by its bin."""
    end = min(one["curve"][-1][1] for one in cell)
    edges = [end * place / FINE for place in range(FINE + 1)]
    times, means = list[float](), list[float]()
    for low, high in pairwise(edges):
        found = [r for one in cell for _, at, r in one["curve"] if low < at <= high]
        if found:
            times.append((low + high) / 2)
            means.append(statistics.fmean(found))
    return times, means


def ends(axis: Axes, runs: Sequence[Result]) -> None:
    """The reward at the end: a dot for each seed, S side by side."""
    names = list(dict.fromkeys(one["answer"] for one in runs))
    for place, name in enumerate(names):
        for offset, (staleness, colour) in enumerate(COLOURS.items()):
            found = [one["reward"] for one in of(runs, staleness, name)]
            height = place + (offset - 1.5) * 0.18
            axis.plot(found, [height] * len(found), "o", color=colour, markersize=2.5)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("reward at the end")
