"""The policy loss: {ratio → surrogate} × correction + KL, aggregated, less the entropy bonus.

All that depends on the whole optimiser step (divisors, masks, weights) is computed once by
``step_terms``; ``policy_loss`` of a slice of it returns shares that add up over the micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import SupportsFloat

import torch
from torch import Tensor

from polopt.math.divergence import Estimator, importance_corrected, k3
from polopt.math.ratios import (
    no_log_ratio,
    safe_exp,
    sequence_mean_log_ratio,
    sequence_sum_log_ratio,
    token_log_ratio,
)
from polopt.math.reduce import Aggregation, masked, row_mean, spread_rows, token_mean
from polopt.math.surrogates import Surrogate
from polopt.objective.reduction import Reduction, reduction
from polopt.types import Advantages, Experience, RowIndex, cut

LogRatio = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(logp, logp_old, mask) -> log-ratio[B, T]``."""

Correction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(logp_old, logp_rollout, mask) -> weight[B, T]`` on ℓ, a constant."""

MaskEdit = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(logp, logp_old, advantages, mask) -> mask[B, T]``, from the current policy (M2PO)."""

UNCORRECTED: Correction | None = None  # w = 1
EVERY_TOKEN: MaskEdit | None = None  # the mask stays as it is

SIDES = {  # what holds a token back, by the event of the surrogate; the last one of several counts
    "clip_fraction_low": "low",
    "clip_fraction_high": "high",
    "dual_clip_fraction": "dual",
    "stale_fraction": "stale",
}


@dataclass(frozen=True)
class RatioLevel:
    """The level of the importance ratio, token or sequence, and the advantages at that level."""

    log_ratio: LogRatio
    advantages: Callable[[Tensor, Tensor], Tensor]  # (advantages, mask) -> [B, T]


def _of_token(advantages: Tensor, mask: Tensor) -> Tensor:
    return masked(advantages, mask)


def _of_sequence(advantages: Tensor, mask: Tensor) -> Tensor:
    return spread_rows(row_mean(advantages, mask), mask)


NONE = RatioLevel(no_log_ratio, _of_token)
TOKEN = RatioLevel(token_log_ratio, _of_token)
SEQUENCE_SUM = RatioLevel(sequence_sum_log_ratio, _of_sequence)
SEQUENCE_MEAN = RatioLevel(sequence_mean_log_ratio, _of_sequence)


@dataclass(frozen=True)
class KLTerm:
    """KL in the loss, per token, after the correction and with the same aggregation."""

    estimator: Estimator
    coefficient: SupportsFloat  # an adaptive one is read with each loss
    corrected: bool = False  # multiplied by ρ = π/π_old, with gradient (DeepSeek-V3.2)


@dataclass(frozen=True)
class PolicyObjective:
    """The choices of the objective columns of a row.

    Example: GRPO is ``PolicyObjective(TOKEN, partial(clipped, low=0.2, high=0.2),
    seq_mean_token_mean, kl=KLTerm(k3, 0.04))``.
    """

    ratio: RatioLevel
    surrogate: Surrogate
    aggregate: Aggregation
    aggregation_length: int | None = None
    kl: KLTerm | None = None
    correction: Correction | None = None
    mask_edit: MaskEdit | None = None
    entropy_coefficient: float = 0.0
    old_is_new: bool = False  # without logp_old it is logp, detached: one optimiser step a batch
    vanishes: bool = False  # a row whose advantages are all 0 adds nothing, and can be left out


@dataclass(frozen=True)
class StepTerms:
    """The terms of one optimiser step that need no gradient, computed once. All detached."""

    reduction: Reduction
    advantages: Tensor  # [B, T] of the level of the ratio
    logp_old: Tensor | None  # [B, T]
    logp_ref: Tensor | None  # [B, T]
    correction: Tensor | None  # [B, T] weight on ℓ

    def rows(self, index: RowIndex) -> StepTerms:
        """The part of some rows, for a micro-batch."""
        return cut(self, index)


@torch.no_grad()
def step_terms(
    experience: Experience,
    advantages: Advantages,
    objective: PolicyObjective,
    logp: Tensor | None = None,
) -> StepTerms:
    """The terms of one optimiser step; call it on all rows of the minibatch.

    Args:
        experience: The rows of the minibatch.
        advantages: Of the same rows.
        objective: The choices.
        logp: ``[B, T]`` of the current policy; only a ``mask_edit`` reads it.

    Raises:
        ValueError: A tensor that the choices read is missing.
        NonFiniteError: NaN or infinity inside the mask.
    """
    mask = advantages.mask
    if objective.mask_edit is not None:
        old, new = _read("logp_old", experience.logp_old), _read("logp of the policy", logp)
        mask = objective.mask_edit(new, old, advantages.advantages, mask)
    reduce = reduction(
        mask,
        experience.group,
        objective.aggregate,
        objective.aggregation_length,
        advantages.advantages.dtype,
    )
    if objective.vanishes:
        idle = _idle(objective.ratio.advantages(advantages.advantages, mask))
        told = token_mean(mask & ~idle[:, None], experience.group, None, reduce.weights.dtype)
        reduce = replace(reduce, token_weights=told)
    for name in ("logp_old", "logp_ref", "logp_rollout"):
        x: Tensor | None = getattr(experience, name)
        if x is not None:
            reduce.require_finite("objective", name, x)
    rated = objective.ratio is not NONE or (objective.kl is not None and objective.kl.corrected)
    if rated and not objective.old_is_new:
        _read("logp_old", experience.logp_old)
    if objective.kl is not None:
        _read("logp_ref", experience.logp_ref)
    correction = None
    if objective.correction is not None:
        old = _read("logp_old", experience.logp_old)
        rollout = _read("logp_rollout", experience.logp_rollout)
        correction = objective.correction(old, rollout, advantages.mask)
    return StepTerms(
        reduction=reduce,
        advantages=objective.ratio.advantages(advantages.advantages, mask),
        logp_old=experience.logp_old,
        logp_ref=experience.logp_ref,
        correction=correction,
    )


def idle_rows(terms: StepTerms) -> Tensor:
    """Rows [B] that add nothing to loss and gradient where the objective ``vanishes``."""
    return _idle(terms.advantages)


def _idle(advantages: Tensor) -> Tensor:
    return (advantages == 0).all(-1)


def policy_loss(
    logp: Tensor, entropy: Tensor | None, terms: StepTerms, objective: PolicyObjective
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the loss of the step, and of each metric.

    Shares add up: sum the metrics over the micro-batches of a step, never average them.

    Args:
        logp: ``[B, T]`` of the current policy, with gradient.
        entropy: ``[B, T]`` of the current policy; with gradient where it is rewarded.
        terms: The same rows of ``step_terms``.
        objective: The choices.

    Returns:
        The loss, and detached metrics, each a share of the token mean over the step (over the rows
        that are not idle, where the objective ``vanishes``): ``policy_loss``; with logp_old
        ``ratio_mean`` and ``approx_kl`` (k3 of samples of π_old, KL(π_old‖π)); with logp_ref
        ``kl_reference`` (k3); ``entropy``; and what the surrogate reports, such as
        ``clip_fraction_low``, ``clip_fraction_high``, ``dual_clip_fraction``.

    Raises:
        NonFiniteError: logp or entropy is NaN or infinite inside the mask.
    """
    reduce = terms.reduction
    reduce.require_finite("objective", "logp", logp)
    logp = masked(logp, reduce.mask)
    if terms.logp_old is None and objective.old_is_new:
        terms = replace(terms, logp_old=logp.detach())
    old = logp.detach() if terms.logp_old is None else terms.logp_old  # None: no ratio is taken
    log_ratio = objective.ratio.log_ratio(logp, old, reduce.mask)
    loss, events = objective.surrogate(logp, log_ratio, terms.advantages, reduce.mask)
    if terms.correction is not None:
        loss = loss * terms.correction
    total = reduce.loss(loss)
    policy, seen = total.detach(), _seen(logp, log_ratio, terms) | events
    if objective.kl is not None:
        total = total + reduce.loss(_kl(logp, terms, objective.kl))
    if entropy is not None:
        reduce.require_finite("objective", "entropy", entropy)
        seen["entropy"] = entropy
    if objective.entropy_coefficient:
        bonus = reduce.loss(_read("entropy", entropy))
        total = total - objective.entropy_coefficient * bonus
    return total, {"policy_loss": policy, **reduce.means(seen)}


@torch.no_grad()
def sides(logp: Tensor, terms: StepTerms, objective: PolicyObjective) -> Tensor | None:
    """What the bound made of each token, [B, T] int8: 0 nothing, n the n-th of :data:`SIDES`.

    Args:
        logp: ``[B, T]`` of the current policy.
        terms: The same rows of ``step_terms``.
        objective: The choices.

    Returns:
        None where the surrogate has no bound that could hold a token back.
    """
    mask = terms.reduction.mask
    logp = masked(logp.detach(), mask)
    old = logp if terms.logp_old is None else terms.logp_old
    log_ratio = objective.ratio.log_ratio(logp, old, mask)
    _, events = objective.surrogate(logp, log_ratio, terms.advantages, mask)
    found = None
    for number, event in enumerate(SIDES, start=1):
        if event in events:
            found = torch.zeros_like(mask, dtype=torch.int8) if found is None else found
            found = found.masked_fill(events[event] & mask, number)
    return found


def _kl(logp: Tensor, terms: StepTerms, kl: KLTerm) -> Tensor:
    """``β·k(log π - log π_ref)``, times ρ where it is corrected for samples of π_old."""
    mask = terms.reduction.mask
    reference = _read("logp_ref", terms.logp_ref)
    estimate = kl.estimator(token_log_ratio(logp, reference, mask))
    if kl.corrected:
        old = _read("logp_old", terms.logp_old)
        estimate = importance_corrected(estimate, token_log_ratio(logp, old, mask))
    return float(kl.coefficient) * estimate


@torch.no_grad()
def _seen(logp: Tensor, log_ratio: Tensor, terms: StepTerms) -> dict[str, Tensor]:
    """Token-level metrics of the change of the policy since the rollout."""
    mask, seen = terms.reduction.mask, dict[str, Tensor]()
    if terms.logp_old is not None:
        seen["ratio_mean"] = safe_exp(log_ratio)
        seen["approx_kl"] = k3(token_log_ratio(terms.logp_old, logp, mask))
    if terms.logp_ref is not None:
        seen["kl_reference"] = k3(token_log_ratio(logp, terms.logp_ref, mask))
    return seen


def _read(name: str, x: Tensor | None) -> Tensor:
    """A tensor that the choices read; a missing one raises, by its name."""
    if x is None:
        raise ValueError(f"the objective reads {name}; none was given")
    return x
