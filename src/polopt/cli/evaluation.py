"""The table of an evaluation: a line for each data set, and for what training saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polopt.cli import output

if TYPE_CHECKING:
    from polopt.api.examine import Examined


def show(found: Sequence[Examined], directory: Path, *, as_json: bool) -> None:
    """Print the figures, and where the answers are."""
    if as_json:
        entries = [one.entry for one in found]
        output.write_json({"directory": str(directory), "evaluations": entries})
        return
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    titles = [f"{one.data} ({one.seen})" if one.seen else one.data for one in found]
    rows: list[Sequence[object]] = [["n", *(one.count for one in found)]]
    rows += [[name, *(_cell(one, name) for one in found)] for name in names]
    output.table(["", *titles], rows)
    print(f"\nanswers: {directory / 'answers.jsonl'}\npage:    {directory / 'report.html'}")


def _cell(one: Examined, name: str) -> str:
    value, interval = one.metrics.get(name), one.intervals.get(name)
    if value is None:
        return ""
    between = f"  {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    return f"{value:.4g}{between}"
