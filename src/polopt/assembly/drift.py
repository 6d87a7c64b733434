"""How far the policy is from those that a batch came from, before it learns from it."""

from __future__ import annotations

from polopt.math.statistics import drift
from polopt.types import Experience, Metrics
from polopt.update.adaptive import measured_kl


def drifts(experience: Experience) -> Metrics:
    """The KL of the policy before the update to the behaviour policy and to the reference.

    The first is 0 where the engine has the current weights. Nothing where log-probs are missing.
    """
    metrics: Metrics = {}
    if experience.logp_old is None:
        return metrics
    if experience.logp_rollout is not None:
        found = drift(experience.logp_old, experience.logp_rollout, experience.mask)
        metrics |= {"behaviour/kl": float(found.k3), "behaviour/ess": float(found.ess_fraction)}
    if experience.logp_ref is not None:
        metrics["kl/measured"] = measured_kl(experience)[0]
    return metrics
