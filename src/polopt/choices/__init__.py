"""The choices of which methods consist, with their facts, by family. No torch.

A module holds the fields of its family (a section of a recipe, or a part of one), and its columns:
the choices by name, each with its function (named by path), its equation, the fields that it reads
and its constraints on other columns. What a recipe may hold beside a choice, defaults of rows,
settings without effect and what is shown are derived from it in ``polopt.resolution``.
"""

from __future__ import annotations

from polopt.choices import (
    aggregation,
    baseline,
    bound,
    coordination,
    correction,
    kl,
    mask,
    normalisation,
    preference,
    ratio,
    replay,
    returns,
    roles,
    rollout,
    select,
    shaping,
    spread,
    update,
)
from polopt.choices.choice import Choice, Column

COLUMNS = {
    column.name: column
    for column in (
        rollout.COLUMN,
        replay.EXPLORATION,
        replay.TARGET,
        replay.PATHWISE,
        replay.TEMPERATURE,
        rollout.FILTER,
        shaping.COLUMN,
        spread.COLUMN,
        returns.COLUMN,
        baseline.COLUMN,
        normalisation.COLUMN,
        select.COLUMN,
        ratio.COLUMN,
        bound.COLUMN,
        mask.COLUMN,
        correction.COLUMN,
        preference.COLUMN,
        kl.ESTIMATOR,
        kl.PLACEMENT,
        kl.CONTROLLER,
        aggregation.COLUMN,
        update.COLUMN,
        update.DECAY,
        roles.ROLES,
        roles.LOSSES,
        coordination.COLUMN,
    )
}

__all__ = ["COLUMNS", "Choice", "Column"]
