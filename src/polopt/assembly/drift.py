"""How far the policy is from those that a batch came from, before it learns from it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from polopt.math.statistics import drift, drift_by_bucket, largest_ratios
from polopt.recipe import StageRecipe
from polopt.rollout.groups import BUCKETS
from polopt.types import Experience, Metrics
from polopt.update.adaptive import measured_kl


def drifts_of(recipe: StageRecipe) -> Callable[[Experience], Metrics]:
    """What is measured of a batch; by lag, where responses may be stale."""
    return drifts if recipe.coordination.mode == "alternate" else drifts_by_lag


def drifts(experience: Experience) -> Metrics:
    """The KL of the policy before the update to the behaviour policy and to the reference.

    The first is 0 where the engine has the current weights. Nothing where log-probs are missing.
    """
    metrics: Metrics = {}
    if experience.logp_old is None:
        return metrics
    if experience.logp_rollout is not None:
        own = (experience.logp_old, experience.logp_rollout, experience.mask)
        found = drift(*own)
        # Read together: each read waits for the accelerator.
        figures = torch.stack([found.k3, found.ess_fraction, largest_ratios(*own)]).tolist()
        names = ("behaviour/kl", "behaviour/ess", "behaviour/ratio_p99")
        metrics |= zip(names, figures, strict=True)
    if experience.logp_ref is not None:
        metrics["kl/measured"] = measured_kl(experience)[0]
    return metrics


def drifts_by_lag(experience: Experience) -> Metrics:
    """The same, and that to the behaviour policy for the tokens of each lag."""
    metrics = drifts(experience)
    old, rollout, lag = experience.logp_old, experience.logp_rollout, experience.lag
    if old is None or rollout is None or lag is None:
        return metrics
    by = drift_by_bucket(old, rollout, experience.mask, lag, BUCKETS)
    table = torch.stack([by.tokens, by.k3, by.ess_fraction], dim=1)
    for at, (tokens, kl, ess) in enumerate(table.tolist()):
        if tokens:
            metrics |= {f"lag/{at}/kl": kl, f"lag/{at}/ess": ess}
    return metrics
