"""What several ranks cannot train is refused before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polopt.algorithms import row
from polopt.choices.domain import TEXT
from polopt.cluster.gpus import name_of
from polopt.cluster.placement import trainers
from polopt.cluster.trainers import led
from polopt.errors import RecipeError
from polopt.ranks import Ranks
from polopt.recipe import Recipe

FOLLOW = "polopt.api.follower:follow"


@contextmanager
def leading(
    recipe: Recipe, directory: Path, ranks: Ranks, reward: Callable[..., Any] | None
) -> Generator[Ranks]:
    """The ranks that train: those that torchrun has started, or those that the recipe asks for.

    Raises:
        RecipeError: a reward from Python, which only this process has.
    """
    if (size := trainers(recipe.stages)) == 1:
        yield ranks
        return
    if reward is not None:
        raise RecipeError(
            f"coordination.trainers: {size} is not allowed with a reward from Python, which other "
            "processes do not have; reward.file"
        )
    from polopt.api.device import device_of  # imports torch

    gpu = name_of(device_of(recipe.stages[0].run.device))
    with led(recipe.stages, directory.resolve(), FOLLOW, _say, gpu) as ranks:
        yield ranks


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def check(recipe: Recipe, size: int) -> None:
    """Refuse a recipe that so many ranks, of torchrun or of its own, cannot train.

    Raises:
        RecipeError: names the field.
    """
    own = trainers(recipe.stages)
    if size > 1 and own > 1:
        raise RecipeError(
            f"coordination.trainers: {own} is not allowed with torchrun, which started {size}; 1"
        )
    launched, size = size > 1, max(size, own)
    if size == 1:
        return
    for stage in recipe.stages:
        if stage.domain != TEXT.name:
            raise RecipeError(
                f"data.source: {stage.data.source!r} is not allowed with {size} ranks, which "
                "train language models alone; one process"
            )
        if launched and stage.coordination.mode != "alternate":
            raise RecipeError(
                f"coordination.mode: {stage.coordination.mode!r} is not allowed with torchrun; "
                "alternate"
            )
        if row(stage.algorithm).update == "natural_step":
            raise RecipeError(
                f"algorithm: {stage.algorithm!r} is not allowed with {size} ranks, for its "
                "step is searched along one line; one process"
            )
        if stage.update.optimiser == "adamw_8bit" and stage.update.shard:
            raise RecipeError(
                'update.optimiser: "adamw_8bit" is not allowed with update.shard on '
                f"{size} ranks; adamw, or shard = false"
            )
