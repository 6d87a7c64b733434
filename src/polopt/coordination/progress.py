"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from polopt.coordination.stage import Event, Observer
from polopt.errors import counted
from polopt.record import headline_of, words_of

SHOWN = (  # metric, label; the first few that a line has
    ("reward/mean", "reward"),
    ("accuracy", "accuracy"),
    ("return/mean", "return"),
    ("episode/length", "length"),
    ("policy/loss", "loss"),
    ("policy/entropy", "entropy"),
    ("response/length", "length"),
)
SECONDS_BETWEEN_LINES = 10.0
WIDE = 110  # characters that two figures and an evaluation need


@contextmanager
def progress() -> Generator[Observer]:
    """An observer that prints the progress of a run to stderr."""
    if not sys.stderr.isatty():
        yield _Lines(sys.stderr.write)
        return
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),  # shrinks first on a narrow screen
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}"),
        console=console,
    ) as bar:
        yield _Bar(bar).observe


class _Bar:
    """One bar per stage, with the newest metrics behind it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._evaluated = ""

    def observe(self, event: Event) -> None:
        values = event.values
        if event.kind == "stage":
            name = f"{values['name']} ({values['algorithm']})"
            self._task = self._bar.add_task(
                name, total=values["steps"], completed=values["step"], figures=""
            )
        elif event.kind == "metrics" and self._task is not None:
            self._evaluated = _evaluated(values) or self._evaluated
            told = _figures(values, 2 if self._bar.console.width >= WIDE else 1)
            self._bar.update(
                self._task,
                completed=values["stage_step"],
                figures=f"{told}  {self._evaluated}",
            )
        elif text := _said(event):
            self._bar.console.print(text, markup=False, highlight=False)


class _Lines:
    """A line per event, and one every few seconds in between."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._steps: Mapping[str, Any] = {}
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        values = event.values
        if event.kind == "stage":
            self._steps = values
            steps = counted(values["steps"], "step")
            self._write(f"{values['name']}: {values['algorithm']}, {steps}\n")
        elif text := _said(event):
            self._write(f"{text}\n")
        elif event.kind == "metrics":
            evaluated = _evaluated(values)
            if not evaluated and time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
                return
            self._last = time.monotonic()
            place = f"{values['stage']} {values['stage_step']}/{self._steps.get('steps', '?')}"
            told = (place, _figures(values), evaluated)
            self._write("  ".join(filter(None, told)) + "\n")


def _said(event: Event) -> str:
    """A message as it is, a warning as one."""
    if event.kind == "warning":
        return f"warning: {event.values['message']}"
    return str(event.values["text"]) if event.kind == "message" else ""


def _figures(values: Mapping[str, Any], count: int = 4) -> str:
    found = [f"{label} {_short(values[name])}" for name, label in SHOWN if name in values]
    return "  ".join(found[:count])


def _evaluated(values: Mapping[str, Any]) -> str:
    measured = {name.removeprefix("eval/"): values[name] for name in values if "eval/" in name}
    name = headline_of(measured)
    return "" if name is None else f"evaluation {words_of(name)} {_short(measured[name])}"


def _short(value: float) -> str:
    """Three places, or fewer of a large number: 0.250, 23.1, 1,231."""
    return (
        f"{value:.3f}"
        if abs(value) < 10
        else f"{value:,.1f}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )
