"""Settings that are allowed and yet do nothing, or not what their name says."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from polopt.algorithms import row
from polopt.recipe import StageRecipe

AT_RATIO_1 = (  # do nothing there
    "clip_low",
    "clip_high",
    "dual_clip",
    "drift",
    "tau_positive",
    "tau_negative",
    "tau",
    "second_moment",
)


def inert(stage: StageRecipe, of: AbstractSet[str] | None = None) -> list[str]:
    """One line for each such setting of a resolved stage; the field stands first.

    Args:
        stage: resolved.
        of: only these fields; default: all.
    """
    sampled = "prompts" in row(stage.algorithm).requires
    of_policy = (
        (*_bound(stage), *_correction(stage), *_kl(stage), *_normalisation(stage))
        if sampled
        else ()
    )
    lines = [*of_policy, *_lengths(stage)]
    return [line for line in lines if of is None or line.split()[0].strip(":") in of]


def _bound(stage: StageRecipe) -> Iterator[str]:
    """On the first optimiser step after sampling ρ = 1: no bound on it ever bites."""
    once = stage.update.epochs == 1 and stage.update.minibatches == 1
    for name in AT_RATIO_1 if once else ():
        if getattr(stage.objective, name) is not None:
            yield f"objective.{name} has no effect: with 1 epoch and 1 minibatch the ratio is 1"


def _correction(stage: StageRecipe) -> Iterator[str]:
    if stage.objective.correction != "none" and stage.coordination.mode == "alternate":
        yield (
            f"objective.correction = {stage.objective.correction} has no effect beyond rounding: "
            "with coordination.mode = alternate the weights that train are the ones that sample"
        )


def _kl(stage: StageRecipe) -> Iterator[str]:
    match stage.kl.placement, stage.kl.estimator:
        case "loss", "k2" if stage.kl.importance_corrected:
            yield (
                "kl.importance_corrected: multiplied by the ratio, k2 does not have the gradient "
                "of the KL divergence; k1 and k3 have"
            )
        case "loss", _ if stage.kl.importance_corrected:
            pass
        case "loss", "k1":
            yield (
                "kl.coefficient has no effect on average: the gradient of k1 in the loss is 0 in "
                "expectation; k2 or k3, or kl.placement = reward"
            )
        case "reward", "k2" | "k3":
            yield (
                f"kl.estimator = {stage.kl.estimator} in the reward does not have the gradient of "
                "the KL divergence; k1 has"
            )
        case _:
            pass


def _normalisation(stage: StageRecipe) -> Iterator[str]:
    by_spread = stage.credit.normalisation in ("group_std", "batch_std")
    weighted = len(stage.rewards) == 1 and stage.rewards[0].weight not in (0, 1)
    if by_spread and weighted and stage.kl.placement != "reward":
        yield (
            "reward.weight has no effect beyond its sign: credit.normalisation = "
            f"{stage.credit.normalisation} divides by the spread of the rewards"
        )
    if stage.credit.normalisation == "group_std" and stage.rollout.group_size == 2:
        yield (
            "rollout.group_size = 2: with group_std the two advantages are the same two numbers "
            "whatever the rewards, unless they are equal"
        )


def _lengths(stage: StageRecipe) -> Iterator[str]:
    steps = stage.run.steps
    assert steps is not None, "resolved"
    saved, evaluated = stage.run.checkpoint_every or 0, stage.evaluation.every
    if saved > steps:
        yield (
            f"run.checkpoint_every = {saved} has no effect: the stage ends, and is saved, after "
            f"{steps} steps"
        )
    if evaluated > steps:
        yield f"evaluation.every = {evaluated} has no effect: the stage ends after {steps} steps"
    if stage.update.warmup_steps >= steps:
        yield (
            f"update.warmup_steps = {stage.update.warmup_steps}: the learning rate never reaches "
            f"update.learning_rate in {steps} steps"
        )
