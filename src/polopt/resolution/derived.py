"""Sizes and counts that follow from the settings of a resolved stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from polopt.algorithms import row
from polopt.choices.coordination import lag_at_most, lag_steps_at_most, reused_groups
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat


def derived(stage: StageRecipe) -> dict[str, int]:
    """Sizes and counts of a resolved stage; tokens are upper bounds, prompts not counted."""
    return ARITHMETIC[row(stage.algorithm).places[stage.domain].rollout](stage)


def updates_a_step(stage: StageRecipe) -> float:
    """Optimiser steps in one recorded step of a resolved stage with a replay buffer."""
    count, steps = stage.episodes.environments, stage.episodes.steps
    assert count and steps and stage.replay.updates_per_step
    return round(count * steps * stage.replay.updates_per_step, 9)


def _steps(stage: StageRecipe) -> dict[str, int]:
    update, steps, count = stage.update, stage.run.steps, stage.episodes.environments
    assert steps and count
    minibatches = update.minibatches or 1  # none: one step a batch
    per_batch = (update.epochs or 1) * minibatches
    counts = {"optimiser_steps_per_batch": per_batch, "optimiser_steps": per_batch * steps}
    if stage.episodes.whole:
        return {"episodes_per_batch": count, "episodes": count * steps, **counts}
    assert stage.episodes.steps
    size = count * stage.episodes.steps
    return {
        "steps_per_batch": size,
        "minibatch_size": size // minibatches,
        "environment_steps": size * steps,
        **counts,
    }


def _replay(stage: StageRecipe) -> dict[str, int]:
    episodes, replay, steps = stage.episodes, stage.replay, stage.run.steps
    assert episodes.environments and episodes.steps and steps
    assert replay.start_steps is not None
    size, updates = episodes.environments * episodes.steps, int(updates_a_step(stage))
    return {
        "environment_steps_per_step": size,
        "environment_steps": replay.start_steps + size * steps,
        "optimiser_steps_per_step": updates,
        "optimiser_steps": updates * steps,
    }


def _groups(stage: StageRecipe) -> dict[str, int]:
    rollout, update, steps = stage.rollout, stage.update, stage.run.steps
    assert rollout.group_size and steps
    responses = rollout.prompts_per_step * rollout.group_size
    new = responses - reused_groups(flat(stage)) * rollout.group_size
    minibatches = update.minibatches or 1  # none: one step a batch
    per_batch = (update.epochs or 1) * minibatches
    whole = {} if stage.credit.select else {"minibatch_size": responses // minibatches}
    return {
        "responses_per_step": responses,
        "generated_tokens_per_step_at_most": new * rollout.max_new_tokens,
        **whole,  # how many responses are kept is not known before
        "optimiser_steps_per_batch": per_batch,
        "optimiser_steps": per_batch * steps,
        "responses": new * steps,
        **_lag(stage),
        **_evaluation(stage),
    }


def _lag(stage: StageRecipe) -> dict[str, int]:
    values = flat(stage)
    lag = lag_at_most(values)
    return {"lag_at_most": lag, "lag_in_optimiser_steps": lag_steps_at_most(values)} if lag else {}


def _given(stage: StageRecipe, what: str) -> dict[str, int]:
    size, steps = stage.update.batch_size, stage.run.steps
    assert size and steps
    counts = {f"{what}_per_step": size, "optimiser_steps": steps, what: size * steps}
    return counts | _evaluation(stage)


def _evaluation(stage: StageRecipe) -> dict[str, int]:
    assert stage.run.steps
    every, prompts = stage.evaluation.every, stage.evaluation.prompts
    counts = {"evaluations_during_training": stage.run.steps // every if every else 0}
    if row(stage.algorithm).has("rollout.max_new_tokens"):
        counts["generated_tokens_per_evaluation_at_most"] = prompts * stage.rollout.max_new_tokens
    return counts


ARITHMETIC: dict[str, Callable[[StageRecipe], dict[str, int]]] = {
    "groups": _groups,
    "steps": _steps,
    "dataset": partial(_given, what="demonstrations"),
    "rankings": partial(_given, what="rankings"),
    "replay": _replay,
}
