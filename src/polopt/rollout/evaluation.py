"""Evaluation of a policy on fixed prompts that training never sees."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import binomtest, sem, t

from polopt.rollout.engines import Engine, Request, answered
from polopt.rollout.groups import marks
from polopt.types import Finish, Group, Metrics, Prompt, Sample, Sampling

SHOWN = 24  # prompts whose answers are recorded, the same before and after


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation, with some of the responses."""

    metrics: Metrics  # accuracy, accuracy_greedy, and the task's own, by plain name
    intervals: Mapping[str, tuple[float, float]]  # 95 % confidence, by the same names
    samples: Sequence[Mapping[str, Any]]  # lines for samples.jsonl


@dataclass(frozen=True)
class Examination:
    """The prompts of an evaluation, and the scoring of responses."""

    engine: Engine
    prompts: Sequence[Prompt]
    sampling: Sampling
    score: Callable[[Sequence[Group]], list[Group]]  # rewards and outcomes filled in
    text: Callable[[Sample], str]
    describe: Callable[[str, Mapping[str, Any]], Mapping[str, float | None]]
    answers: int = 1  # sampled for each prompt


def evaluate(examination: Examination, *, greedy: bool) -> Evaluation:
    """Sample answers to each prompt; with ``greedy``, also take the most likely one.

    Accuracy is the share of right answers among those that could be judged; with k > 1 answers,
    pass@k is the share of prompts with a right one among them (Chen et al. 2021, 2107.03374, with
    n = k).
    """
    sampled = _answers(examination, examination.sampling, examination.answers)
    metrics, intervals = _figures(examination, sampled, suffix="")
    if greedy:
        most_likely = _answers(examination, replace(examination.sampling, temperature=0.0), 1)
        more, more_intervals = _figures(examination, most_likely, suffix="_greedy")
        metrics |= more
        intervals |= more_intervals
    lines = [
        sample_line(group, sample, examination.text)
        for group in sampled[:SHOWN]
        for sample in group.samples
    ]
    return Evaluation(metrics, intervals, lines)


def both(one: Evaluation, other: Evaluation) -> Evaluation:
    """The figures of two evaluations together, with the samples of the first."""
    return Evaluation(
        {**one.metrics, **other.metrics}, {**one.intervals, **other.intervals}, one.samples
    )


def proportion(right: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of ``right`` out of ``count``."""
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of a mean."""
    mean, error = statistics.fmean(values), float(sem(values)) if len(values) > 1 else 0.0
    if not error > 0:
        return mean, mean
    low, high = t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def share_interval(of_prompts: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a share from those of the prompts: answers to one of them go together."""
    low, high = mean_interval(of_prompts)
    return max(0.0, low), min(1.0, high)


def sample_line(group: Group, sample: Sample, text: Callable[[Sample], str]) -> dict[str, Any]:
    """One answer as a line of samples.jsonl."""
    return {
        "ticket": group.ticket,
        "prompt": group.prompt.text,
        "completion": text(sample),
        "reward": _number(sample.reward),
        "parts": {name: _number(part) for name, part in sample.parts.items()},
        "outcome": sample.outcome.value,
        "finish": sample.finish.value,
        "tokens": int(sample.mask.sum()),
    }


def _number(value: float) -> float | None:
    """A number as JSON; null where there is none."""
    return None if math.isnan(value) else value


def _answers(examination: Examination, sampling: Sampling, count: int) -> list[Group]:
    asked = [Request(i, p, count, sampling) for i, p in enumerate(examination.prompts)]
    return examination.score(answered(examination.engine, asked))


def _figures(
    examination: Examination, groups: Sequence[Group], suffix: str
) -> tuple[Metrics, dict[str, tuple[float, float]]]:
    """Accuracy with its interval, mean reward and length, and the task's own figures."""
    pairs = [(group, sample) for group in groups for sample in group.samples]
    samples = [sample for _, sample in pairs]
    metrics: Metrics = {}
    intervals: dict[str, tuple[float, float]] = {}
    judged = [found for group in groups if (found := marks(group.samples))]
    if judged:
        right, count = sum(map(sum, judged)), sum(map(len, judged))
        metrics["accuracy" + suffix] = right / count
        intervals["accuracy" + suffix] = (
            share_interval([statistics.fmean(group) for group in judged])
            if count > len(judged) > 1
            else proportion(right, count)
        )
    if examination.answers > 1 and not suffix and judged:
        passed = sum(any(group) for group in judged)
        metrics[f"pass@{examination.answers}"] = passed / len(judged)
        intervals[f"pass@{examination.answers}"] = proportion(passed, len(judged))
    rewards = [s.reward for s in samples if not math.isnan(s.reward)]
    if rewards:
        metrics["reward" + suffix] = statistics.fmean(rewards)
    if suffix:
        return metrics, intervals
    metrics["length"] = statistics.fmean(int(s.mask.sum()) for s in samples)
    metrics["truncated"] = statistics.fmean(s.finish is Finish.LENGTH for s in samples)
    return metrics | _own(examination, pairs), intervals


def _own(examination: Examination, pairs: Sequence[tuple[Group, Sample]]) -> Metrics:
    """Means of the metrics of the task over the responses; None is left out."""
    return means(
        examination.describe(examination.text(sample), group.prompt.columns)
        for group, sample in pairs
    )


def means(described: Iterable[Mapping[str, float | None]]) -> Metrics:
    """The mean of each named value over the answers that it applies to."""
    values: dict[str, list[float]] = {}
    for answer in described:
        for name, value in answer.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: statistics.fmean(numbers) for name, numbers in sorted(values.items())}
