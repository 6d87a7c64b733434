"""What each actor of a stage gets; said before Ray is started or asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polopt.errors import counted
from polopt.isolated import CONCURRENT
from polopt.recipe import StageRecipe

MOST_REWARDS = 64  # actors; as many threads roll out
ADDRESS = "RAY_ADDRESS"  # of the environment: the cluster to join


@dataclass(frozen=True)
class Part:
    """Processes of one kind."""

    who: str  # such as "engines"
    count: int
    where: str
    gets: str


def clustered(stage: StageRecipe) -> bool:
    """Whether a stage generates in actors of Ray."""
    return stage.coordination.mode == "cluster"


def trainers(stages: Sequence[StageRecipe]) -> int:
    """How many ranks a run has that Ray starts; they share the updates of all of its stages."""
    return max((one.coordination.trainers for one in stages if clustered(one)), default=1)


def placement(stage: StageRecipe, *, cuda: bool) -> list[dict[str, Any]]:
    """The processes of a stage in mode cluster; none in the others.

    Args:
        stage: resolved.
        cuda: whether the run computes on GPUs.
    """
    if not clustered(stage):
        return []
    slot = "GPU" if cuda else "processor slot"
    divided = stage.coordination.engine_devices
    there = "an actor of Ray each, spread over the nodes"
    if not address():
        there = "an actor of Ray each, on this machine"
    parts = [
        Part("trainer", 1, "this process", "1 GPU" if cuda else "the processor"),
        Part("engines", stage.coordination.engines, there, f"{counted(divided, slot)} each"),
    ]
    if (others := stage.coordination.trainers - 1) > 0:
        parts.insert(1, Part("other trainers", others, there, "1 GPU each" if cuda else "no slot"))
    if any(reward.file is not None for reward in stage.rewards):
        count = MOST_REWARDS if address() else reward_actors(os.cpu_count() or 1)
        parts.append(Part("rewards", count, there, "no slot: at most one for each processor"))
    return [asdict(part) for part in parts]


def reward_actors(processors: int) -> int:
    """How many actors compute rewards at a time, in a cluster with so many processors."""
    return max(CONCURRENT, min(MOST_REWARDS, processors))


def address() -> str | None:
    """Where the cluster is that a run joins; None: it starts one of its own."""
    given = os.environ.get(ADDRESS, "").strip()
    return None if given in ("", "local") else given
