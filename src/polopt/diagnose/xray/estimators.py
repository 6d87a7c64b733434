"""What estimators of the KL make of two models, with the base as the reference.

The trained model's own answers, the first to each prompt: estimators are made for samples of the
policy. Their averages and the gradients that they have on average are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from torch import Tensor

from polopt.diagnose.xray.intervals import ratio
from polopt.math.divergence import ESTIMATORS
from polopt.math.estimation import PLACES
from polopt.models import LanguageModel
from polopt.roles import Actor
from polopt.roles.estimates import Estimates, estimates, gradient, is_known
from polopt.rollout.groups import experience
from polopt.types import Batch, Group


def estimators(
    before: LanguageModel, after: LanguageModel, groups: Sequence[Group]
) -> dict[str, Any] | None:
    """The figures of k1, k2 and k3 as JSON; None where no answer has a token.

    Args:
        before: the reference.
        after: the policy, on the same device.
        groups: its answers to the prompts.
    """
    some = [replace(group, samples=group.samples[:1]) for group in groups]
    some = [group for group in some if any(sample.mask.any() for sample in group.samples)]
    if not some:
        return None
    tensors = experience(
        Batch(tuple(some), taken_at=0),
        pad_id=cast(int, after.tokenizer.pad_token_id),
        device=after.model.device,
    )
    assert tensors.tokens is not None
    found = estimates(Actor(after), Actor(before), tensors.tokens, tensors.mask)
    return {
        "answers": len(some),
        "tokens": len(found.kl),
        "kl": _mean(found.kl, found),
        "estimators": [_of(name, found) for name in ESTIMATORS],
    }


def _of(name: str, found: Estimates) -> dict[str, Any]:
    """An estimator; its bias is the share of the KL by which its average is off."""
    average, dead, missed = found.of[name]
    mean = float(average.mean())
    pulls = {place: gradient(found, (name, place)) for place in PLACES}
    return {
        "name": name,
        "sampled": _mean(found.taken[name], found),
        "average": _finite(mean),
        "bias": _finite(mean / float(found.kl.mean()) - 1.0) if is_known(found) else None,
        "dead": float(dead.mean()),
        "dead_reference": float(missed.mean()),
        "gradients": {place: pull and asdict(pull) for place, pull in pulls.items()},
    }


def _mean(values: Tensor, found: Estimates) -> dict[str, Any]:
    """The mean over tokens, with an interval over prompts; of what is infinite, nothing."""
    own = values.double().cpu().numpy()
    if not math.isfinite(float(own.sum())):
        return {"value": None, "interval": None}
    return ratio(own, own * 0 + 1, found.row.tolist()).as_json()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
