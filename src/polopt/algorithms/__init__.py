"""The rows: a method is one choice per column, and one file here. Nothing imports torch."""

from __future__ import annotations

from polopt.algorithms.choices import CHOICES, chosen, function
from polopt.algorithms.derived import derived
from polopt.algorithms.describe import describe, describe_row, differences, settings, table
from polopt.algorithms.index import INDEX, row
from polopt.algorithms.resolve import resolve
from polopt.algorithms.row import Row

__all__ = [
    "CHOICES",
    "INDEX",
    "Row",
    "chosen",
    "derived",
    "describe",
    "describe_row",
    "differences",
    "function",
    "resolve",
    "row",
    "settings",
    "table",
]
