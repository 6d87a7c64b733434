"""What tables of the pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def each(values: Iterable[object]) -> str:
    """Every value once."""
    return ", ".join(sorted({*map(str, values)}))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(cell, cells))} |" for cells in lines)


def cell(value: object) -> str:
    """A value where ``|`` would end it."""
    return str(value).replace("|", "\\|")


def code(value: object) -> str:
    """Set as code; nothing stays nothing."""
    return f"`{value}`" if value != "" else ""
