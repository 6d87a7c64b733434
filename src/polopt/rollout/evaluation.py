"""What a policy does on fixed prompts that training never sees."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import binomtest

from polopt.rollout.engines import Engine, Request
from polopt.types import Finish, Group, Metrics, Outcome, Prompt, Sample, Sampling

SHOWN = 24  # prompts whose answers are recorded, the same before and after


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation, and some of the answers behind them."""

    metrics: Metrics  # accuracy, accuracy_greedy, and the task's own, by plain name
    intervals: Mapping[str, tuple[float, float]]  # 95 % confidence, by the same names
    samples: Sequence[Mapping[str, Any]]  # lines for samples.jsonl


@dataclass(frozen=True)
class Examination:
    """The prompts and how answers to them are judged."""

    engine: Engine
    prompts: Sequence[Prompt]
    sampling: Sampling
    score: Callable[[Sequence[Group]], list[Group]]  # rewards and outcomes filled in
    text: Callable[[Sample], str]
    describe: Callable[[str, Mapping[str, Any]], Mapping[str, float | None]]


def evaluate(examination: Examination, *, greedy: bool) -> Evaluation:
    """Sample one answer to each prompt; with ``greedy``, also take the most likely one.

    Accuracy is the share of right answers among those that could be judged, with its Wilson
    interval.
    """
    sampled = _answers(examination, examination.sampling)
    metrics, intervals = _figures(examination, sampled, suffix="")
    if greedy:
        most_likely = _answers(examination, replace(examination.sampling, temperature=0.0))
        more, more_intervals = _figures(examination, most_likely, suffix="_greedy")
        metrics |= more
        intervals |= more_intervals
    lines = [
        sample_line(group, sample, examination.text)
        for group in sampled[:SHOWN]
        for sample in group.samples
    ]
    return Evaluation(metrics, intervals, lines)


def proportion(right: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of ``right`` out of ``count``."""
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def sample_line(group: Group, sample: Sample, text: Callable[[Sample], str]) -> dict[str, Any]:
    """One answer as a line of samples.jsonl."""
    return {
        "ticket": group.ticket,
        "prompt": group.prompt.text,
        "completion": text(sample),
        "reward": None if math.isnan(sample.reward) else sample.reward,
        "parts": dict(sample.parts),
        "outcome": sample.outcome.value,
        "finish": sample.finish.value,
        "tokens": int(sample.mask.sum()),
    }


def _answers(examination: Examination, sampling: Sampling) -> list[Group]:
    engine = examination.engine
    engine.submit([Request(i, p, 1, sampling) for i, p in enumerate(examination.prompts)])
    groups = list[Group]()
    while finished := engine.poll():
        groups.extend(finished)
    return examination.score(sorted(groups, key=lambda group: group.ticket))


def _figures(
    examination: Examination, groups: Sequence[Group], suffix: str
) -> tuple[Metrics, dict[str, tuple[float, float]]]:
    """Accuracy with its interval, mean reward and length, and the task's own figures."""
    pairs = [(group, sample) for group in groups for sample in group.samples]
    samples = [sample for _, sample in pairs]
    metrics: Metrics = {}
    intervals: dict[str, tuple[float, float]] = {}
    judged = [s.outcome for s in samples if s.outcome in (Outcome.OK, Outcome.WRONG)]
    if judged:
        right = sum(outcome is Outcome.OK for outcome in judged)
        metrics["accuracy" + suffix] = right / len(judged)
        intervals["accuracy" + suffix] = proportion(right, len(judged))
    rewards = [s.reward for s in samples if not math.isnan(s.reward)]
    if rewards:
        metrics["reward" + suffix] = statistics.fmean(rewards)
    if suffix:
        return metrics, intervals
    metrics["length"] = statistics.fmean(int(s.mask.sum()) for s in samples)
    metrics["truncated"] = statistics.fmean(s.finish is Finish.LENGTH for s in samples)
    return metrics | _own(examination, pairs), intervals


def _own(examination: Examination, pairs: Sequence[tuple[Group, Sample]]) -> Metrics:
    """Means of what the task says of each answer; None is left out."""
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
