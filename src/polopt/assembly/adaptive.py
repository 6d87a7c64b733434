"""The adaptive numbers of a recipe: moving baselines and adaptive coefficients."""

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
    steered,
    step_returns,
    whole_rewards,
)

EARNED = {"groups": whole_rewards, "steps": step_returns}  # by the rollout of the row


def adaptive_numbers(recipe: StageRecipe, log_probs: LogProbs) -> list[AdaptiveNumber]:
    """The adaptive numbers of a resolved stage, each a learner that replaces a field.

    Args:
        recipe: resolved.
        log_probs: log π of the current policy, computed at each call.
    """
    found = [*_baseline(recipe), *_coefficient(recipe), *_penalty(recipe, log_probs)]
    return [*found, *_steered(recipe)]


def _baseline(recipe: StageRecipe) -> list[AdaptiveNumber]:
    """A baseline that is a mean over earlier batches; 0 before the first one."""
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
    """The coefficient of the KL to the reference, adapted to hold that KL at a target."""
    kl = recipe.kl
    if not kl.coefficient or kl.controller == "fixed":
        return []
    return [
        AdaptiveNumber(
            "kl", "kl.coefficient", kl.coefficient, controlled(chosen("controller", recipe))
        )
    ]


def _steered(recipe: StageRecipe) -> list[AdaptiveNumber]:
    """The numbers that the controller of lag lowers and raises."""
    if recipe.coordination.target_mismatch is None:
        return []
    found, rate, kl = list[AdaptiveNumber](), recipe.update.learning_rate, recipe.kl
    if row(recipe.algorithm).update == "adamw":
        assert rate is not None, "resolved by the row"
        found.append(AdaptiveNumber("rate", "update.learning_rate", rate, steered()))
    if kl.coefficient and kl.controller == "fixed":
        follow = steered("coefficient")
        found.append(AdaptiveNumber("kl", "kl.coefficient", kl.coefficient, follow))
    return found


def _penalty(recipe: StageRecipe, log_probs: LogProbs) -> list[AdaptiveNumber]:
    """The coefficient of the KL penalty on the update, by PPO's rule (1707.06347, section 4)."""
    objective = recipe.objective
    if objective.penalty_target is None or objective.penalty_coefficient is None:
        return []
    rule = partial(ppo_update, target=objective.penalty_target)
    start, follow = objective.penalty_coefficient, penalised(rule, log_probs)
    return [AdaptiveNumber("penalty", "objective.penalty_coefficient", start, follow)]
