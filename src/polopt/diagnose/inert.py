"""Settings that are allowed and yet do nothing, or not what their name says."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from polopt.algorithms import row
from polopt.algorithms.effects import SUMS
from polopt.errors import counted
from polopt.recipe import StageRecipe

AT_RATIO_1 = (  # do nothing there
    "clip_low",
    "clip_high",
    "dual_clip",
    "penalty_coefficient",
    "penalty_target",
    "drift",
    "tau_positive",
    "tau_negative",
    "tau",
    "second_moment",
)
KL_CHOICE = frozenset({"kl.estimator", "kl.placement", "kl.importance_corrected"})


def inert(stage: StageRecipe, of: AbstractSet[str] | None = None) -> list[str]:
    """One line for each such setting of a resolved stage; the field stands first.

    Args:
        stage: resolved.
        of: only lines about these fields; default: all.
    """
    sampled = "prompts" in row(stage.algorithm).requires
    of_policy = (
        (
            *_bound(stage),
            *_correction(stage),
            *_kl(stage),
            *_normalisation(stage),
            *_steps(stage),
            *_sequence_ratio(stage),
        )
        if sampled
        else ()
    )
    lines = [*of_policy, *_lengths(stage)]
    return [line for line in lines if of is None or not _concerns(line).isdisjoint(of)]


def _concerns(line: str) -> frozenset[str]:
    """The fields of which a line speaks: the first word, or all that make up the KL."""
    field = line.split()[0].strip(":")
    return KL_CHOICE if field in KL_CHOICE else frozenset({field})


def _bound(stage: StageRecipe) -> Iterator[str]:
    """On the first optimiser step after sampling ρ = 1: no bound on it ever bites."""
    for name in AT_RATIO_1 if _optimiser_steps(stage) == 1 else ():
        if getattr(stage.objective, name) is not None:
            yield f"objective.{name} has no effect: with 1 epoch and 1 minibatch the ratio is 1"


def _correction(stage: StageRecipe) -> Iterator[str]:
    if stage.objective.correction not in (None, "none") and stage.coordination.mode == "alternate":
        yield (
            f"objective.correction = {stage.objective.correction} has no effect beyond rounding: "
            "with coordination.mode = alternate the weights that train are the ones that sample"
        )


def _kl(stage: StageRecipe) -> Iterator[str]:
    """Penalties whose gradient is, on average, not that of KL(π‖π_ref).

    In the loss that is the divergence token by token, where the samples are those of π_old; in the
    reward that of whole responses, at the policy that sampled. 2510.01555, 2512.21852.
    """
    kl, steps = stage.kl, _optimiser_steps(stage)
    sampled_by_reference = kl.refresh_every == 1 and kl.refresh_rate == 1
    if kl.coefficient and sampled_by_reference and (kl.placement == "reward" or steps == 1):
        yield (
            "kl.refresh_every = 1 makes the reference the policy that sampled: the KL of "
            f"{'its responses is 0' if kl.placement == 'reward' else 'the one step is 0'}"
        )
    match kl.placement, kl.estimator:
        case "reward", "k2" | "k3":
            yield (
                f"kl.estimator = {kl.estimator} in the reward does not have the gradient of the "
                "KL divergence; k1 has"
            )
        case "loss", "k2" if kl.importance_corrected:
            yield (
                "kl.importance_corrected: multiplied by the ratio, k2 does not have the gradient "
                "of the KL divergence; k1 and k3 have"
            )
        case "loss", _ if kl.importance_corrected:
            pass
        case "loss", "k1":
            later = "; after the first step of a batch it drives the policy away from that sampled"
            yield (
                "kl.estimator = k1 in the loss has gradient 0 on average"
                f"{later if steps > 1 else ''}; {_repair(steps)}"
            )
        case "loss", "k3":
            yield (
                "kl.estimator = k3 in the loss has the gradient of KL(pi_ref, pi), not of "
                f"KL(pi, pi_ref); {_repair(steps)}"
            )
        case "loss", "k2" if steps > 1:
            yield (
                "kl.estimator = k2 in the loss has the gradient of the KL divergence in the first "
                f"of {steps} optimiser steps of a batch only; {_repair(steps)}"
            )
        case _:
            pass


def _repair(steps: int) -> str:
    """What has the gradient of the divergence in the loss; k2 has it where the ratio is 1."""
    corrected = "k1 or k3 with kl.importance_corrected = true has it"
    return corrected if steps > 1 else f"k2 has it, {corrected.removesuffix(' has it')} too"


def _optimiser_steps(stage: StageRecipe) -> int:
    return (stage.update.epochs or 1) * (stage.update.minibatches or 1)


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


def _steps(stage: StageRecipe) -> Iterator[str]:
    """Rewards token by token that are added up again."""
    credit = stage.credit
    if credit.spread == "discounted":
        gamma = credit.spread_gamma
        yield (
            "credit.spread = discounted rewards length: what it puts on n tokens adds up to "
            f"(1 - {gamma}**n) / (1 - {gamma}) of the reward; normalised keeps the sum"
            if gamma != 1
            else "credit.spread = discounted rewards length: with credit.spread_gamma = 1 "
            "every token has the whole of it; uniform keeps the sum"
        )
    if credit.returns in SUMS and any(reward.per_token for reward in stage.rewards):
        yield (
            f"credit.returns = {credit.returns} adds up the steps of a reward per token; "
            "reward_to_go and gae credit a token with what follows it"
        )


def _sequence_ratio(stage: StageRecipe) -> Iterator[str]:
    """One ratio for all tokens of a response makes each of them as long as the response."""
    objective = stage.objective
    if objective.ratio == "sequence_mean" and objective.aggregation == "seq_mean_token_sum":
        yield (
            "objective.aggregation = seq_mean_token_sum multiplies a response by its length: all "
            "of its tokens share the ratio (LUSPO does so; seq_mean_token_mean is GSPO)"
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
