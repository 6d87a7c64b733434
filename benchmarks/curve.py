"""Draws metrics of one stage of a run, one panel for each argument, into an SVG or PNG file.

    python benchmarks/curve.py RUN STAGE grpo.svg accuracy,eval/accuracy task/worked

Metrics of evaluation are points, the others lines. Needs matplotlib, which is in the dev extra.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Row = dict[str, Any]
STYLE = {
    "svg.hashsalt": "polopt",  # the same numbers give the same file
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "savefig.facecolor": "white",  # pages are read on dark screens too
}


def rows_of(run: Path, stage: str) -> list[Row]:
    """The lines of metrics.jsonl that belong to a stage."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] == stage]
    if not rows:
        names = ", ".join(sorted({json.loads(line)["stage"] for line in lines}))
        raise SystemExit(f"{run}: no stage {stage!r}; there are: {names}")
    return rows


def series(rows: list[Row], metric: str) -> tuple[list[int], list[float]]:
    """Steps of the stage at which the metric stands, and its values."""
    found = [(row["stage_step"], row[metric]) for row in rows if metric in row]
    if not found:
        known = ", ".join(sorted({name for row in rows for name in row}))
        raise SystemExit(f"no metric {metric!r}; there are: {known}")
    return [step for step, _ in found], [value for _, value in found]


def draw(rows: list[Row], panels: list[list[str]], out: Path) -> None:
    """One panel beside the other."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(3.0 * len(panels), 2.4), squeeze=False
        )
        for axis, metrics in zip(axes[0], panels, strict=True):
            for metric in metrics:
                marker = {"marker": "o", "markersize": 3} if metric.startswith("eval/") else {}
                axis.plot(*series(rows, metric), label=metric, linewidth=1.2, **marker)
            axis.set_xlabel("step of the stage")
            axis.legend(frameon=False, fontsize=7)
        figure.tight_layout()
        metadata = {"Date": None} if out.suffix == ".svg" else None
        figure.savefig(out, metadata=metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw metrics of one stage of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("stage")
    parser.add_argument("out", type=Path, help="a .svg or .png file")
    parser.add_argument("panels", nargs="+", help="metrics of a panel, with commas")
    given = parser.parse_args()
    panels = [panel.split(",") for panel in given.panels]
    draw(rows_of(given.run, given.stage), panels, given.out)


if __name__ == "__main__":
    main()
