"""Credit assignment, from rewards to the advantage of every token, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polopt.credit.outcome import Baseline, Normalise, no_baseline, unchanged
from polopt.credit.shaping import Shaper, terminal
from polopt.credit.temporal import Returns, outcome
from polopt.errors import NonFiniteError
from polopt.math.guards import read_together, require_finite
from polopt.math.reduce import group_is_constant, group_size, lengths, masked, row_sum, widen
from polopt.types import Advantages, Experience, Metrics

Select = Callable[[Tensor, Tensor], Tensor]
"""``(rewards[B], group[B]) -> rows[B]`` that are trained on, of shaped rewards. NaN: the
row takes no part. Rows that are left out here still count in every statistic."""

Keep = Callable[[Experience], Tensor]
"""``experience -> rows[B]`` that take part at all; the others are in no statistic."""


def every_row(experience: Experience) -> Tensor:
    """No row is left out."""
    return torch.ones_like(experience.group, dtype=torch.bool)


def everything(rewards: Tensor, group: Tensor) -> Tensor:
    """Select all rows."""
    return torch.ones_like(rewards, dtype=torch.bool)


def untruncated(experience: Experience) -> Tensor:
    """Rows cut by the length limit are left out (overlong filtering, DAPO 2503.14476, §3.4)."""
    if experience.truncated is None:
        raise ValueError("dropping truncated rows reads truncated; the experience has none")
    return ~experience.truncated


@dataclass(frozen=True)
class Credit:
    """The choices of the credit column of a row; each is a function, exchanged by passing another.

    Example: GRPO is ``Credit(baseline=group_mean, normalise=scaled(normalise.group_std))``.
    """

    shapers: tuple[Shaper, ...] = field(default_factory=lambda: (terminal(),))
    returns: Returns = outcome
    baseline: Baseline = no_baseline
    normalise: Normalise = unchanged
    keep: Keep = every_row
    select: Select = everything


@torch.no_grad()
def assign(experience: Experience, credit: Credit) -> Advantages:
    """Advantages of a batch, as one function of it; call it on the whole batch, before any split.

    Rows without a reward or tokens are dropped before any statistic; the baseline acts on
    the row totals of the shaped rewards and is subtracted from every token's return; rows that it
    does not define (a group of one) leave the mask, and with it every later statistic and
    every divisor. Value targets are the returns before the baseline, never normalised.

    Args:
        experience: The batch, with the log-probs and values that the choices read.
        credit: The choices.

    Raises:
        NonFiniteError: An infinite reward, or NaN or infinity inside the mask.
    """
    scored = _scored(experience) & credit.keep(experience)
    mask = experience.mask & scored[:, None]
    _check(experience, mask)

    shaped = [shape(experience, mask) for shape in credit.shapers]
    rewards = sum(shaped, torch.zeros_like(masked(experience.rewards, scored))[:, None] * mask)
    totals = row_sum(rewards, mask)
    psi, targets = credit.returns(rewards, experience, mask)

    baseline, keep = credit.baseline(totals, experience, mask)
    mask = mask & keep[:, None]
    advantages = masked(psi - baseline, mask)
    advantages, keep = credit.normalise(advantages, totals, experience, mask, scored)
    earned = torch.where(scored, totals, torch.nan)
    mask = mask & (keep & credit.select(earned, experience.group))[:, None]
    advantages = masked(advantages, mask)
    return Advantages(
        advantages=advantages,
        mask=mask,
        valid=mask.any(-1),
        value_targets=masked(targets, mask),
        rewards=earned,
        metrics=_metrics(experience, advantages, mask, scored)
        | _value_metrics(experience, targets, mask),
    )


def _scored(experience: Experience) -> Tensor:
    """Rows with a reward and at least one token (rules R4, R7); an infinite reward is an error."""
    trained = lengths(experience.mask) > 0
    infinite = trained & torch.isinf(experience.rewards)
    if infinite.any():
        row = int(infinite.nonzero()[0])
        raise NonFiniteError(
            f"credit: reward is {experience.rewards[row].item()} at row {row};"
            " a reward is a finite number, or NaN where the response could not be scored"
        )
    return trained & ~torch.isnan(experience.rewards)


def _check(experience: Experience, mask: Tensor) -> None:
    """Check that all inputs of the choices are finite inside the mask (rule R8)."""
    given = experience.token_rewards  # NaN: no reward at this token
    with read_together():
        if given is not None:
            require_finite("credit", "token_rewards", given, mask & ~torch.isnan(given))
        for name in ("logp_rollout", "logp_old", "logp_ref", "values", "process"):
            x: Tensor | None = getattr(experience, name)
            if x is not None:
                require_finite("credit", name, x, mask)


def _value_metrics(experience: Experience, targets: Tensor, mask: Tensor) -> Metrics:
    """The explained variance of the critic before its update: 1 - Var(R - V) / Var(R)."""
    if experience.values is None or not mask.any():
        return {}
    values, wanted = experience.values[mask].double(), targets[mask].double()
    spread = float(wanted.var(correction=0))
    metrics = {"value/mean": float(values.mean()), "value/target_mean": float(wanted.mean())}
    if spread > 0:
        rest = float((wanted - values).var(correction=0))
        metrics["value/explained_variance"] = 1.0 - rest / spread
    return metrics


def _metrics(experience: Experience, advantages: Tensor, mask: Tensor, scored: Tensor) -> Metrics:
    """Finite numbers: shares of degenerate groups and of excluded rows, and other statistics."""
    rewards = masked(widen(experience.rewards), scored)
    compared = scored & (group_size(scored, experience.group) >= 2)
    constant = compared & group_is_constant(rewards, experience.group, scored)
    groups = experience.group[compared].unique().numel()
    inside = advantages[mask].double()
    return {
        "degenerate_groups": experience.group[constant].unique().numel() / max(groups, 1),
        "excluded_rows": 1.0 - float(mask.any(-1).double().mean()) if mask.numel() else 0.0,
        "advantage_mean": float(inside.mean()) if inside.numel() else 0.0,
        "advantage_std": float(inside.std(correction=0)) if inside.numel() else 0.0,
    }
