"""A run in the terminal while it goes on: ``polopt watch``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from polopt.cli import output
from polopt.record.shown import short
from polopt.report.status import Figure, Status, Watched
from polopt.report.text import duration

BLOCKS = "▁▂▃▄▅▆▇█"
LOOKS = 1.0  # seconds between two looks
WARNINGS = 3  # newest ones that are shown


def watch(run: Path, *, once: bool, as_json: bool) -> None:
    """Show a run until it has ended; in a pipe, or with ``once``, as it stands now."""
    watched = Watched(run)
    if as_json:
        output.write_json(asdict(watched.look()))
        return
    screen = output.console()
    if once or not sys.stdout.isatty():
        screen.print(shown(watched.look(), screen))
        return
    found = watched.look()
    with Live(shown(found, screen), console=screen, auto_refresh=False) as live:
        while found.goes_on:
            time.sleep(LOOKS)
            found = watched.look()
            live.update(shown(found, screen), refresh=True)


def shown(found: Status, screen: Console) -> RenderableType:
    """What is printed of a run."""
    return Group(*_parts(found, screen))


def _parts(found: Status, screen: Console) -> Iterator[RenderableType]:
    style = "green" if found.goes_on or found.state == "finished" else "yellow"
    yield Text.assemble((_plain(found.name), "bold"), "  ", (_plain(found.state), style))
    yield _place(found)
    if found.steps and screen.width < 1000:  # a bar as wide as the screen, where there is one
        yield ProgressBar(total=found.steps, completed=min(found.step, found.steps), width=40)
    if found.figures:
        yield Text("")
        yield _table(found.figures)
    yield from _list("alarms", found.alarms, "red")
    yield from _list("warnings", found.warnings[-WARNINGS:], "yellow", len(found.warnings))
    yield from _list("did nothing so far", found.did_nothing, "")


def _place(found: Status) -> Text:
    number, count = found.place
    stage = f"stage {number} of {count}, {found.stage}" if count > 1 else found.stage
    told = [f"{stage} ({found.algorithm})", f"step {found.step} of {found.steps}"]
    if found.seconds_a_step is not None:
        told.append(f"{duration(found.seconds_a_step)} a step")
    if found.left:
        told.append(f"{duration(found.left)} left" + (" of the stage" if count > 1 else ""))
    return Text(_plain("  ".join(told)))


def _table(figures: Sequence[Figure]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "now", "first"):
        made.add_column(column, justify="left" if column == "" else "right")
    made.add_column("trend", no_wrap=True)
    made.add_column("")
    for one in figures:
        made.add_row(
            Text(_plain(one.name)), short(one.now), short(one.first), trend(one.trend), one.note
        )
    return made


def trend(values: Sequence[float]) -> str:
    """Values as blocks from the lowest to the highest: ``▁▃▅█``."""
    low, high = min(values), max(values)
    if high <= low:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[round((v - low) / (high - low) * (len(BLOCKS) - 1))] for v in values)


def _list(title: str, lines: Sequence[str], style: str, of: int = 0) -> Iterator[RenderableType]:
    if not lines:
        return
    count = f", the newest {len(lines)} of {of}" if of > len(lines) else ""
    yield Text(f"\n{title}{count}", style="bold")
    for line in lines:
        yield Text(f"  {_plain(line)}", style=style)


def _plain(text: str) -> str:
    return output.plain(text).replace("\n", " ")
