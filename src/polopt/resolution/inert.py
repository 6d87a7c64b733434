"""Settings that are allowed but have no effect, or not the one of their name."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from polopt.algorithms import row
from polopt.choices import COLUMNS
from polopt.choices.returns import SUMS
from polopt.choices.section import Inert, Values
from polopt.errors import counted
from polopt.recipe import StageRecipe
from polopt.recipe.fields import fact, facts, flat

KL_CHOICE = frozenset({"kl.estimator", "kl.placement", "kl.importance_corrected"})


def inert(stage: StageRecipe, of: AbstractSet[str] | None = None) -> list[str]:
    """One line for each such setting of a resolved stage; the field stands first.

    Args:
        stage: resolved.
        of: only lines about these fields; default: all.
    """
    values = flat(stage)
    sampled = "prompts" in row(stage.algorithm).requires
    of_policy = (*_of_fields(values), *_of_columns(values), *_steps(stage)) if sampled else ()
    lines = [*of_policy, *_lengths(stage)]
    return [line for line in lines if of is None or not _concerns(line).isdisjoint(of)]


def _concerns(line: str) -> frozenset[str]:
    """The fields that a line is about: its first word, or all fields of the KL."""
    field = line.split()[0].strip(":")
    return KL_CHOICE if field in KL_CHOICE else frozenset({field})


def _of_fields(values: Values) -> Iterator[str]:
    """The lines of fields with the fact ``Inert``."""
    for field in facts():
        one = fact(field, Inert)
        if one is not None and values[field] is not None and (reason := one.reason(values)):
            yield f"{field} has no effect: {reason}"


def _of_columns(values: Values) -> Iterator[str]:
    """The notes of columns on their choices."""
    for column in COLUMNS.values():
        yield from () if column.notes is None else column.notes(values)


def _steps(stage: StageRecipe) -> Iterator[str]:
    """Token rewards whose positions have no effect."""
    credit = stage.credit
    if credit.returns in SUMS and any(reward.per_token for reward in stage.rewards):
        yield (
            f"credit.returns = {credit.returns} adds up the steps of a reward per token; "
            "reward_to_go and gae credit a token with what follows it"
        )


def _lengths(stage: StageRecipe) -> Iterator[str]:
    steps = stage.run.steps
    assert steps is not None, "resolved"
    saved, evaluated = stage.run.checkpoint_every or 0, stage.evaluation.every
    all_of_them = counted(steps, "step")
    if saved > steps:
        yield (
            f"run.checkpoint_every = {saved} has no effect: the stage ends, and is saved, after "
            f"{all_of_them}"
        )
    if evaluated > steps:
        yield f"evaluation.every = {evaluated} has no effect: the stage ends after {all_of_them}"
    if stage.kl.refresh_every > steps:
        yield (
            f"kl.refresh_every = {stage.kl.refresh_every} has no effect: the stage ends after "
            f"{all_of_them}"
        )
    if stage.update.warmup_steps >= steps:
        yield (
            f"update.warmup_steps = {stage.update.warmup_steps}: the learning rate never reaches "
            f"update.learning_rate in {all_of_them}"
        )
