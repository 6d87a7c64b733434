"""One step of a stage, computed in several ways that must agree; else the check says where not.

The expensive bugs do not crash: a mask that leaks, a divisor counted in a micro-batch, weights that
never arrived. Each check computes the same log-probs, and the same gradient, in another way, by the
code that a run uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from polopt.assembly import StageInputs
from polopt.coordination import memory
from polopt.coordination.stage import Event
from polopt.diagnose.selfcheck.engines import arrived_weights, teacher_forcing
from polopt.diagnose.selfcheck.found import Found, unneeded
from polopt.diagnose.selfcheck.layouts import (
    micro_batch_splits,
    packed_and_dense,
    padding,
    row_order,
    shared_prefix,
)
from polopt.diagnose.selfcheck.saved import adapter_off, save_and_load
from polopt.diagnose.selfcheck.several import Second, gradients, one_rank_and_two
from polopt.diagnose.selfcheck.subject import Subject, small, stand_in, subject, unheard
from polopt.diagnose.selfcheck.tokens import template_prefix, tokens_and_mask
from polopt.errors import UserError

Check = Callable[[Subject], Found]
NO_GRADIENT = "the method learns from a replay buffer, one drawn minibatch at a time"


def checks(inputs: StageInputs, second: Second) -> Mapping[str, Check]:
    """The checks by name, in the order in which they are made: what others build on is first."""
    return {
        "tokens and mask": tokens_and_mask,
        "template prefix": template_prefix,
        "engine against teacher forcing": teacher_forcing,
        "packed and dense": packed_and_dense,
        "prefix shared and not": shared_prefix,
        "padding": padding,
        "row order": row_order,
        "micro-batch splits": micro_batch_splits,
        "engine's weights": partial(arrived_weights, recipe=inputs.recipe),
        "adapter on and off": adapter_off,
        "save and load": save_and_load,
        "one rank and two": partial(one_rank_and_two, second=second),
    }


def checked(inputs: StageInputs, notes: Sequence[str], second: Second) -> dict[str, Any]:
    """All checks of a stage, as JSON: ``stage, algorithm, notes, checks``.

    Args:
        inputs: of the stage, as a run would make them.
        notes: what was changed of the recipe, to be said.
        second: the rank beside this one, for all stages.

    Raises:
        UserError: what a run would be refused for.
    """
    recipe = inputs.recipe
    table, own = (
        checks(inputs, second),
        replace(inputs, recipe=small(recipe), observe=unheard),
    )
    _tell(inputs, len(table), 0)
    with closing(own.serving):
        with memory.told("self-check", memory.ON_PROCESSOR):
            of = subject(own)
        found = list[dict[str, Any]]()
        for number, (name, check) in enumerate(table.items(), start=1):
            begun = time.perf_counter()
            with memory.told(f"self-check, {name}", memory.ON_PROCESSOR):
                one = _one(check, of)
            found.append(one.entry(name, time.perf_counter() - begun))
            _tell(inputs, len(table), number)
        with memory.told("self-check", memory.ON_PROCESSOR):
            silent = _silent(of)
    return {
        "stage": recipe.name,
        "algorithm": recipe.algorithm,
        "rows": len(of.experience.mask),
        "notes": [*notes, *of.notes, *silent],
        "checks": found,
    }


def _silent(of: Subject) -> list[str]:
    """Of gradients that are 0: they agree whatever is wrong."""
    return [
        f"the gradient of {name} is 0 on this batch: that it agrees says nothing"
        for name, found in gradients(of).items()
        if not any(bool(one.any()) for one in found.values())
    ]


def _one(check: Check, of: Subject) -> Found:
    """What a check finds; an error that a run would end with is a failure."""
    if not of.parts:
        return unneeded("", NO_GRADIENT)
    try:
        return check(of)
    except UserError as error:
        return Found("", error=str(error))


def _tell(inputs: StageInputs, count: int, number: int) -> None:
    """Show how many checks are done as steps of a stage."""
    name = inputs.recipe.name
    if not number:
        line = {"name": name, "algorithm": "self-check", "steps": count, "step": 0}
        inputs.observe(Event("stage", line))
    inputs.observe(Event("metrics", {"stage": name, "stage_step": number}))


__all__ = ["Second", "checked", "checks", "stand_in"]
