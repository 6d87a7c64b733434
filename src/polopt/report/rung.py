"""Alarms that rang, as marks in the plots of what they read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from polopt.report.read import Row


@dataclass(frozen=True)
class Mark:
    """An alarm, or a step back, at a step of the run."""

    step: int
    title: str  # such as "Truncation", or "back to step 5"


def marks(alarms: Iterable[Row], metrics: Collection[str]) -> list[Mark]:
    """Those that belong into a plot of these metrics; a step back belongs into all of them."""
    found = list[Mark]()
    for row in alarms:
        if "back_to" in row:
            found.append(Mark(row["step"], f"back to step {row['back_to']}"))
        elif not set(row.get("metrics") or ()).isdisjoint(metrics):
            found.append(Mark(row["step"], str(row.get("title") or row["alarm"])))
    return found
