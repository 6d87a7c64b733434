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
from polopt.rollout.evaluation import Evaluation, mean_interval, share_interval
from polopt.types import Batch, Metrics

AT_ONCE = 64  # prompts in a batch
RESAMPLES = 200  # of the bootstrap

Measure = Callable[[Batch], Mapping[str, Tensor]]
"""Values of every response of a batch by name, [B] each; ``reward`` orders the pairs."""


def compare(rankings: Sequence[Ranking], measure: Measure) -> Evaluation:
    """Pair accuracy with its 95 % interval, calibration error, and means of either side.

    Every figure is a mean over prompts of the mean over the pairs of a prompt; with one pair to a
    prompt the interval of the accuracy is Wilson's. The calibration error compares, over all pairs,
    the confidence of the model, ``σ(|rᵢ - rⱼ|)``, with how often it is right (Guo 1706.04599); its
    interval is bootstrapped.

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
    margins = prompt_means(columns["reward"][i] - columns["reward"][j], i, prompt)
    intervals = {
        "pair_accuracy": share_interval(prompt_means(right, i, prompt).tolist()),
        "calibration_error": _calibration_interval(confidence, right),
        "reward_margin": mean_interval(margins.tolist()),
    }
    return Evaluation(metrics, intervals, [])


def _batches(rankings: Sequence[Ranking]) -> Iterator[Batch]:
    groups = [ranked(place, ranking) for place, ranking in enumerate(rankings)]
    for start in range(0, len(groups), AT_ONCE):
        yield Batch(tuple(groups[start : start + AT_ONCE]), taken_at=0)


def _calibration_interval(confidence: Tensor, right: Tensor) -> tuple[float, float]:
    """95 % of the bootstrap: the calibration error of pairs that are drawn with replacement."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(right), (RESAMPLES, len(right)), generator=generator)
    errors = [float(expected_calibration_error(confidence[i], right[i])) for i in draws]
    low, high = torch.tensor(errors).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high
