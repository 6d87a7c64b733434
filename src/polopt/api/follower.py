"""The program of a rank beside the first one; what it needs loads with this module."""

from __future__ import annotations

from pathlib import Path

from polopt import record
from polopt.api.execute import execute
from polopt.ranks import joined


def follow(directory: str, rank: int, size: int, address: str) -> None:
    """Train as one of the ranks of a run beside the first one, until it ends.

    Args:
        directory: of the run.
        rank: of this process.
        size: of the group.
        address: of the first rank.
    """
    with joined(rank, size, address) as ranks:
        with record.open_existing(Path(directory), owner=False) as run:
            execute(run, None, (), ranks)
        ranks.wait()
