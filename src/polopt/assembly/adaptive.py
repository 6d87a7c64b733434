"""Which numbers of a recipe follow the run, and how."""

from __future__ import annotations

from functools import partial

from polopt.algorithms import row
from polopt.assembly.chosen import chosen
from polopt.math.controllers import ppo_update
from polopt.recipe import StageRecipe
from polopt.update.adaptive import (
    AdaptiveNumber,
    LogProbs,
    controlled,
    ema,
    penalised,
    running_mean,
    step_returns,
    whole_rewards,
)

EARNED = {"groups": whole_rewards, "steps": step_returns}  # by how experience is gathered


def adaptive_numbers(recipe: StageRecipe, log_probs: LogProbs) -> list[AdaptiveNumber]:
    """Of a resolved stage; each stands in the place of a field and is a learner of its own.

    Args:
        recipe: resolved.
        log_probs: of the policy that is trained, as it is when they are asked for.
    """
    return [*_baseline(recipe), *_coefficient(recipe), *_penalty(recipe, log_probs)]


def _baseline(recipe: StageRecipe) -> list[AdaptiveNumber]:
    """A baseline that remembers the rewards of earlier batches; before the first one it is 0."""
    credit = recipe.credit
    earned = EARNED[row(recipe.algorithm).places[recipe.domain].rollout]
    match credit.baseline:
        case "ema":
            assert credit.baseline_decay is not None, "resolved"
            follow = ema(credit.baseline_decay, earned)
        case "running_mean":
            follow = running_mean(earned)
        case _:
            return []
    return [AdaptiveNumber("baseline", "credit.baseline_constant", 0.0, follow)]


def _coefficient(recipe: StageRecipe) -> list[AdaptiveNumber]:
    """The weight of the KL to the reference, which holds that KL to a target."""
    kl = recipe.kl
    if not kl.coefficient or kl.controller == "fixed":
        return []
    return [
        AdaptiveNumber(
            "kl", "kl.coefficient", kl.coefficient, controlled(chosen("controller", recipe))
        )
    ]


def _penalty(recipe: StageRecipe, log_probs: LogProbs) -> list[AdaptiveNumber]:
    """The weight of the distance of one update, by PPO's rule (1707.06347, section 4)."""
    objective = recipe.objective
    if objective.penalty_target is None or objective.penalty_coefficient is None:
        return []
    rule = partial(ppo_update, target=objective.penalty_target)
    start, follow = objective.penalty_coefficient, penalised(rule, log_probs)
    return [AdaptiveNumber("penalty", "objective.penalty_coefficient", start, follow)]
