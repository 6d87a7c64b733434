"""Accuracy of a model on held-out pairs and rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from polopt.data import Ranking
from polopt.math.preference import (
    expected_calibration_error,
    ordered_pairs,
    pair_confidence,
    prompt_means,
)
from polopt.rollout.dataset import ranked
from polopt.rollout.evaluation import Evaluation, proportion, share_interval
from polopt.types import Batch, Metrics

AT_ONCE = 64  # prompts in a batch

Measure = Callable[[Batch], Mapping[str, Tensor]]
"""Values of every response of a batch by name, [B] each; ``reward`` orders the pairs."""


def compare(rankings: Sequence[Ranking], measure: Measure) -> Evaluation:
    """Pair accuracy with its 95 % interval, calibration error, and means of either side.

    Every figure is a mean over prompts of the mean over the pairs of a prompt; with one pair to a
    prompt the interval is Wilson's. The calibration error compares, over all pairs, the
    confidence of the model, ``σ(|rᵢ - rⱼ|)``, with how often it is right (Guo 1706.04599).

    Args:
        rankings: Held out from training; each has a pair.
        measure: ``reward``, and any number of others, whose means are reported as well.
    """
    measured: dict[str, list[Tensor]] = {}
    batches = list(_batches(rankings))
    for batch in batches:
        for name, values in measure(batch).items():
            measured.setdefault(name, []).append(values.double().cpu())
    samples = [(g, s) for batch in batches for g in batch.groups for s in g.samples]
    ranks = torch.tensor([-sample.reward for _, sample in samples], dtype=torch.float64)
    prompt = torch.tensor([group.ticket for group, _ in samples])
    i, j = ordered_pairs(ranks, prompt)

    def mean(of_pairs: Tensor) -> float:
        return float(prompt_means(of_pairs, i, prompt).mean())

    columns = {name: torch.cat(parts) for name, parts in measured.items()}
    confidence, right = pair_confidence(columns["reward"][i] - columns["reward"][j])
    metrics: Metrics = {
        "pair_accuracy": mean(right),
        "calibration_error": float(expected_calibration_error(confidence, right)),
        "reward_margin": mean(columns["reward"][i] - columns["reward"][j]),
    }
    for name, values in columns.items():
        metrics |= {f"{name}_chosen": mean(values[i]), f"{name}_rejected": mean(values[j])}
    return Evaluation(
        metrics, {"pair_accuracy": _interval(prompt_means(right, i, prompt).tolist())}, []
    )


def _batches(rankings: Sequence[Ranking]) -> Iterator[Batch]:
    groups = [ranked(place, ranking) for place, ranking in enumerate(rankings)]
    for start in range(0, len(groups), AT_ONCE):
        yield Batch(tuple(groups[start : start + AT_ONCE]), taken_at=0)


def _interval(of_prompts: Sequence[float]) -> tuple[float, float]:
    """Right or wrong is a proportion; shares of several pairs vary between prompts."""
    if set(of_prompts) <= {0.0, 1.0}:
        return proportion(round(sum(of_prompts)), len(of_prompts))
    return share_interval(of_prompts)
