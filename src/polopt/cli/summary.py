"""The summary of a run: its stages with what each changed, and the path of the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polopt.cli import output
from polopt.ranks import place
from polopt.report.measures import Change, decimals, fixed, of_stages


def show(directory: Path, *, as_json: bool) -> None:
    """Print ``summary.json`` of a finished run as tables, or as JSON; one of several ranks does."""
    if place().rank:
        return
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if as_json:
        output.write_json({"directory": str(directory), **summary})
        return
    figures = [row for stage, measured in of_stages(summary) for row in _figures(stage, measured)]
    if figures:
        output.table(("stage", "", "before", "95 % interval", "after", "95 % interval"), figures)
        print()
    stages = [
        [stage.get(key) for key in ("name", "algorithm", "steps", "ended", "seconds")]
        for stage in summary.get("stages", ())
    ]
    if stages:
        output.table(("stage", "algorithm", "steps", "ended", "seconds"), stages)
        print()
    for stage in summary.get("stages", ()):
        for line in stage.get("did_nothing", ()):
            print(f"note: {stage['name']}: {line}")
    print(f"run:    {directory}")
    if (directory / "report.html").exists():
        print(f"report: {directory / 'report.html'}")


def _figures(stage: str, measured: Sequence[Change]) -> Iterator[list[str]]:
    """A row for each figure; the name of the stage stands in the first one."""
    for line, change in enumerate(measured):
        yield [stage if line == 0 else "", change.name, *_cells(change)]


def _cells(change: Change) -> Iterator[str]:
    digits = decimals(change.numbers)
    for figure in (change.before, change.after):
        yield "" if figure is None else fixed(figure.value, digits)
        if figure is None or figure.low is None or figure.high is None:
            yield ""
        else:
            yield f"{fixed(figure.low, digits)} to {fixed(figure.high, digits)}"
