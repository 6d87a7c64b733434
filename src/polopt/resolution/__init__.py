"""Recipe and row put together, with checks and descriptions. Nothing here imports torch."""

from __future__ import annotations

from polopt.resolution.counted import did_nothing, did_nothing_in
from polopt.resolution.derived import derived
from polopt.resolution.describe import describe, describe_row, differences, settings, table
from polopt.resolution.inert import inert
from polopt.resolution.resolve import resolve, stated_in_vain

__all__ = [
    "derived",
    "describe",
    "describe_row",
    "did_nothing",
    "did_nothing_in",
    "differences",
    "inert",
    "resolve",
    "settings",
    "stated_in_vain",
    "table",
]
