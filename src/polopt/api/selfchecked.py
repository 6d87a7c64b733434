"""The self-check of a recipe: each stage with its model, as far as that can be had."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from polopt import isolated
from polopt.api.device import device_of
from polopt.assembly import StageInputs
from polopt.coordination.progress import progress
from polopt.coordination.stage import Observer
from polopt.diagnose.selfcheck import Second, checked, stand_in
from polopt.recipe import Recipe, StageRecipe
from polopt.recipe.contradictions import ENDED, models_by_field, rewards_by_field


def selfcheck(resolved: Recipe, reward: Callable[..., Any] | None) -> list[dict[str, Any]]:
    """See :func:`polopt.api.selfcheck`."""
    run = resolved.stages[0].run
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device = device_of(run.device)  # products stay exact: TF32 would hide what is looked for
    with progress() as observe, closing(isolated), closing(Second()) as second:
        return [_stage(resolved, one, device, observe, reward, second) for one in resolved.stages]


def _stage(
    recipe: Recipe,
    stage: StageRecipe,
    device: torch.device,
    observe: Observer,
    reward: Callable[..., Any] | None,
    second: Second,
) -> dict[str, Any]:
    """All checks of one stage, from weights that there are before any run."""
    ends = {one.name: one.model.path for one in recipe.stages}
    notes, rewards = list[str](), {f"{field}.model" for field, _ in rewards_by_field(stage)}
    if stage.start is not None:
        notes.append(
            f"the weights of {stage.start} are not there yet; {stage.model.path} is taken, with "
            "which it starts"
        )
    for field, path in models_by_field(stage):
        if not path.startswith(ENDED):
            continue
        name, instead = path.removeprefix(ENDED), ends[path.removeprefix(ENDED)]
        if field in rewards and reward is None:  # a head of zeros would be refused
            reward, instead = stand_in, "the share of different characters of an answer"
        notes.append(f"{field}: the weights of {name} are not there yet; {instead} is taken")
    inputs = StageInputs(
        recipe=stage,
        weights=stage.model.path,
        start=stage.model.path,
        device=device,
        observe=observe,
        is_last=stage is recipe.stages[-1],
        reward=reward,
        ends=ends,
    )
    return checked(inputs, notes, second)
