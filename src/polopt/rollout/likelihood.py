"""How likely a policy finds held-out demonstrations."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from torch import Tensor

from polopt.data import Demonstration
from polopt.rollout.dataset import demonstrated
from polopt.rollout.evaluation import Evaluation, mean_interval, share_interval
from polopt.types import Batch

AT_ONCE = 16  # demonstrations in a batch

Likelihood = Callable[[Batch], tuple[Tensor, Tensor]]
"""Of every response, the means over its tokens, [B] each: -log π, and whether it is the most likely
token."""


def likelihood(demonstrations: Sequence[Demonstration], measure: Likelihood) -> Evaluation:
    """Loss and token accuracy, means over demonstrations with their 95 % t intervals.

    Args:
        demonstrations: held out from training.
        measure: of a batch of them.
    """
    groups = [demonstrated(place, one) for place, one in enumerate(demonstrations)]
    losses, accuracies = list[float](), list[float]()
    for start in range(0, len(groups), AT_ONCE):
        loss, right = measure(Batch(tuple(groups[start : start + AT_ONCE]), taken_at=0))
        losses += loss.tolist()
        accuracies += right.tolist()
    return Evaluation(
        {"nll": statistics.fmean(losses), "token_accuracy": statistics.fmean(accuracies)},
        {"nll": mean_interval(losses), "token_accuracy": share_interval(accuracies)},
        [],
    )
