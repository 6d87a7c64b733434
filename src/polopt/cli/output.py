"""Tables for people and JSON for programs, on stdout."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDE = 4096  # nothing is wrapped or cut where there is no screen


def console() -> Console:
    """Stdout, as wide as the terminal; in a pipe without a limit. Text is never read as markup."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table; long cells fold over lines, nothing is cut."""
    screen = console()
    with screen.capture() as captured:
        screen.print(_table(columns, rows, title))
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def fits(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bool:
    """Whether the table fits the width of the terminal without folding."""
    screen = console()
    unbounded = screen.options.update(width=_WIDE)
    return Measurement.get(screen, unbounded, _table(columns, rows, "")).maximum <= screen.width


@contextmanager
def others_on_stderr(as_json: bool) -> Generator[None]:
    """With ``--json`` redirect other output to stderr: environments and rewards may print."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def write_json(value: Any) -> None:  # noqa: ANN401
    """Print JSON and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def answered(prompt: str | Sequence[Mapping[str, str]], answers: Sequence[str]) -> str:
    """A prompt, or the turns of a conversation, with its answers, each under its name."""
    turns = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    numbers = [f" {number}" for number in range(1, len(answers) + 1)] if len(answers) > 1 else [""]
    lines = [f"{turn['role']}: {turn['content']}" for turn in turns]
    lines += [f"answer{n}: {answer}" for n, answer in zip(numbers, answers, strict=True)]
    return plain("\n".join(lines))


def plain(text: str) -> str:
    """What a model wrote, with its control characters as escapes: a screen would obey them."""
    return "".join(c.encode("unicode_escape").decode() if _controls(c) else c for c in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) == "Cc" and character not in "\n\t"


def text(value: object) -> str:
    """A cell: numbers with six digits, lists with commas, None as an empty string."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(text(item) for item in value) or "none"
        case dict():
            return ", ".join(f"{key} = {text(item)}" for key, item in value.items()) or "none"
        case _:
            return str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> Table:
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", header_style="bold")
    for row in rows:
        made.add_row(*(text(cell) for cell in row))
    return made
