"""A recipe, what is given and what is varied, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polopt.algorithms import row
from polopt.diagnose.simulation.distributions import draws
from polopt.diagnose.simulation.given import Given, stated
from polopt.diagnose.simulation.grid import (
    Grid,
    combinations,
    measured,
    own_setting,
    recommended,
)
from polopt.diagnose.simulation.traced import traced
from polopt.errors import RecipeError
from polopt.recipe import Recipe, StageRecipe


def simulated(
    recipe: Recipe,
    given: Given,
    grid: Grid,
    *,
    trace: Path | None = None,
    max_lag: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Every combination for the last stage that samples responses, as JSON.

    Args:
        recipe: resolved.
        given: figures of the parts.
        grid: what is varied.
        trace: a run whose record has what is not given.
        max_lag: largest lag that a recommended setting may allow.
        seed: of the draws.

    Raises:
        UserError: a figure, a list or a run that cannot be; no stage samples.
    """
    stage = _sampling(recipe)
    group, longest = stage.rollout.group_size or 1, stage.rollout.max_new_tokens
    own = own_setting(stage)
    settings = combinations(own, grid)
    recorded, replayed = traced(trace) if trace else (None, None)
    parts, said = stated(
        given,
        recorded=recorded,
        responses=own.prompts * group,
        rows=stage.rollout.rows,
        longest=longest,
    )
    drawn = draws(parts.length, parts.reward, group_size=group, longest=longest, seed=seed)
    points = [measured(one, parts.costs, drawn) for one in settings]
    best, reason = recommended(points, max_lag)
    return {
        "stage": stage.name,
        "prompts_per_step": own.prompts,
        "group_size": group,
        "said": said,
        "replayed": replayed,
        "settings": [one.entry for one in points],
        "recommended": None if best is None else points.index(best),
        "reason": reason,
    }


def _sampling(recipe: Recipe) -> StageRecipe:
    for stage in reversed(recipe.stages):
        if stage.domain == "text" and "prompts" in row(stage.algorithm).requires:
            return stage
    raise RecipeError(
        "algorithm: no stage samples responses to prompts, so that nothing is there to coordinate"
    )
