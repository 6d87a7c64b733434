"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import inf
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
from polopt.record.shown import SHOWN, figures, short

SECONDS_BETWEEN_LINES = 30.0  # at most, unless a step takes longer
LINES_OF_A_STAGE = 10  # at least, where it has as many steps
FIGURES = {160: 4, 110: 2, 0: 1}  # characters of a screen -> figures beside an evaluation


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
            width = self._bar.console.width
            told = _figures(values, next(n for least, n in FIGURES.items() if width >= least))
            self._bar.update(
                self._task,
                completed=values["stage_step"],
                figures=f"{told}  {self._evaluated}",
            )
        elif text := _said(event):
            self._bar.console.print(text, markup=False, highlight=False)


class _Lines:
    """A line per event, and some of the steps in between."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._steps = 1  # of the stage
        self._part = 0  # of the stage that the last line told of
        self._told = self._before = -inf  # when: the last line, and the last step

    def __call__(self, event: Event) -> None:
        values = event.values
        if event.kind == "stage":
            self._steps, self._told = values["steps"], -inf
            steps = counted(values["steps"], "step")
            self._write(f"{values['name']}: {values['algorithm']}, {steps}\n")
        elif text := _said(event):
            self._write(f"{text}\n")
        elif event.kind == "metrics":
            evaluated = _evaluated(values)
            if self._is_due(values["stage_step"]) or evaluated:
                place = f"{values['stage']} {values['stage_step']}/{self._steps}"
                told = (place, _figures(values, len(SHOWN)), evaluated)
                self._write("  ".join(filter(None, told)) + "\n")
                self._told = self._before

    def _is_due(self, step: int) -> bool:
        """Whether a step begins another part of the stage, or the next one would end too late."""
        now, before = time.monotonic(), self._part
        next_one = 2 * now - self._before  # as long as the last one
        self._part, self._before = LINES_OF_A_STAGE * step // self._steps, now
        return self._part > before or next_one - self._told > SECONDS_BETWEEN_LINES


def _said(event: Event) -> str:
    """A message as it is, a warning as one."""
    if event.kind == "warning":
        return f"warning: {event.values['message']}"
    return str(event.values["text"]) if event.kind == "message" else ""


def _figures(values: Mapping[str, Any], count: int) -> str:
    return "  ".join(f"{name} {short(value)}" for name, value in figures(values)[:count])


def _evaluated(values: Mapping[str, Any]) -> str:
    measured = {name.removeprefix("eval/"): values[name] for name in values if "eval/" in name}
    name = headline_of(measured)
    return "" if name is None else f"evaluation {words_of(name)} {short(measured[name])}"
