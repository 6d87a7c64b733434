"""The summary of a run: metrics before and after, its stages, and the path of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polopt.cli import output


def show(directory: Path, *, as_json: bool) -> None:
    """Print ``summary.json`` of a finished run as tables, or as JSON."""
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if as_json:
        output.write_json({"directory": str(directory), **summary})
        return
    figures = [_figure(summary, name) for name in _measured(summary)]
    if figures:
        output.table(("", "before", "95 % interval", "after", "95 % interval"), figures)
        print()
    stages = [
        [stage.get(key) for key in ("name", "algorithm", "steps", "ended", "seconds")]
        for stage in summary.get("stages", ())
    ]
    if stages:
        output.table(("stage", "algorithm", "steps", "ended", "seconds"), stages)
        print()
    print(f"run:    {directory}")
    if (directory / "report.html").exists():
        print(f"report: {directory / 'report.html'}")


def _measured(summary: Mapping[str, Any]) -> list[str]:
    """Figures with a value before and one after."""
    names = (key.removesuffix("_before") for key in summary if key.endswith("_before"))
    return [name for name in names if f"{name}_after" in summary]


def _figure(summary: Mapping[str, Any], name: str) -> list[str]:
    cells = [name]
    for when in ("before", "after"):
        value, interval = summary[f"{name}_{when}"], summary.get(f"{name}_{when}_interval")
        cells.append(f"{value:.3f}")
        cells.append(f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "")
    return cells
