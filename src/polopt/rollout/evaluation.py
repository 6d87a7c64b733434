"""Evaluation of a policy by its answers to fixed prompts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy.stats import binomtest, sem, t

from polopt.rollout.engines import Engine, Request, answered
from polopt.rollout.groups import JUDGED, marks
from polopt.types import Finish, Group, Metrics, Outcome, Prompt, Sample, Sampling

SHOWN = 24  # prompts whose answers are recorded, the same before and after


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation, with some of the responses."""

    metrics: Metrics  # accuracy, accuracy_greedy, and the task's own, by plain name
    intervals: Mapping[str, tuple[float, float]]  # 95 % confidence, by the same names
    samples: Sequence[Mapping[str, Any]]  # lines for samples.jsonl
    beside: Metrics = field(default_factory=dict[str, float])  # by full name, for the record alone


@dataclass(frozen=True)
class Examination:
    """The prompts of an evaluation, and the scoring of responses."""

    engine: Engine
    prompts: Sequence[Prompt]
    sampling: Sampling
    seed: int  # of the draws
    score: Callable[[Sequence[Group]], list[Group]]  # rewards and outcomes filled in
    text: Callable[[Sample], str]
    describe: Callable[[str, Mapping[str, Any]], Mapping[str, float | None]]
    answers: int = 1  # sampled for each prompt
    extract: Callable[[str], str] = str.strip  # the answer of a response, for the majority


@dataclass(frozen=True)
class Answers:
    """The scored answers to each prompt."""

    sampled: Sequence[Group]
    greedy: Sequence[Group]  # the most likely one; empty where it was not asked for

    def to(self, chosen: Callable[[Prompt], bool]) -> Answers:
        """Those to some of the prompts."""
        return Answers(
            [group for group in self.sampled if chosen(group.prompt)],
            [group for group in self.greedy if chosen(group.prompt)],
        )


def evaluate(examination: Examination, *, greedy: bool) -> Evaluation:
    """Sample answers to each prompt; with ``greedy``, also take the most likely one."""
    return figures(examination, answers(examination, greedy=greedy))


def answers(examination: Examination, *, greedy: bool) -> Answers:
    """Sample the answers to each prompt, and score them."""
    most_likely = replace(examination.sampling, temperature=0.0)
    return Answers(
        _asked(examination, examination.sampling, examination.answers),
        _asked(examination, most_likely, 1) if greedy else [],
    )


def figures(examination: Examination, given: Answers) -> Evaluation:
    """The figures of answers, each with its 95 % interval.

    Accuracy is the share of right answers among those that could be judged; where nothing says
    right or wrong there is none. With k > 1 answers to a prompt, pass@k is the share of prompts
    with a right one among them (Chen et al. 2021, 2107.03374, with n = k), and majority@k that of
    prompts whose most frequent answer is right (self-consistency: Wang et al. 2022, 2203.11171).
    Intervals of shares of prompts are Wilson's; those of means are t intervals over prompts.
    """
    metrics, intervals = _judged(given.sampled, suffix="")
    for name, values in _by_prompt(given.sampled).items():
        metrics[name] = statistics.fmean(values)
        is_share = name == "truncated" or (name == "reward" and _all_or_nothing(given.sampled))
        intervals[name] = (share_interval if is_share else mean_interval)(values)
    k = examination.answers
    for name, passed in (_of_prompts(examination, given.sampled) if k > 1 else {}).items():
        metrics[f"{name}@{k}"] = statistics.fmean(passed)
        intervals[f"{name}@{k}"] = proportion(sum(passed), len(passed))
    if given.greedy:
        more, more_intervals = _judged(given.greedy, suffix="_greedy")
        if rewards := _by_prompt(given.greedy).get("reward"):
            more["reward_greedy"] = statistics.fmean(rewards)
        metrics |= more
        intervals |= more_intervals
    lines = [
        sample_line(group, sample, examination.text)
        for group in given.sampled[:SHOWN]
        for sample in group.samples
    ]
    return Evaluation(metrics | _own(examination, given.sampled), intervals, lines)


def both(one: Evaluation, other: Evaluation) -> Evaluation:
    """The figures of two evaluations together, with the samples of the first."""
    return Evaluation(
        {**one.metrics, **other.metrics},
        {**one.intervals, **other.intervals},
        one.samples,
        {**one.beside, **other.beside},
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
    """95 % interval of a share from those of the prompts: answers to one of them go together.

    Wilson's where each prompt has a share of 0 or 1, else a t interval between 0 and 1.
    """
    if set(of_prompts) <= {0.0, 1.0}:
        return proportion(round(sum(of_prompts)), len(of_prompts))
    low, high = mean_interval(of_prompts)
    return max(0.0, low), min(1.0, high)


def sample_line(group: Group, sample: Sample, text: Callable[[Sample], str]) -> dict[str, Any]:
    """One answer as a line of samples.jsonl."""
    return {
        "ticket": group.ticket,
        "prompt": group.prompt.text,
        **({"messages": list(messages)} if (messages := group.prompt.messages) else {}),
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


def _asked(examination: Examination, sampling: Sampling, count: int) -> list[Group]:
    prompts, seed = examination.prompts, examination.seed
    asked = [Request(i, prompt, count, sampling, seed) for i, prompt in enumerate(prompts)]
    return examination.score(answered(examination.engine, asked))


def _judged(groups: Sequence[Group], suffix: str) -> tuple[Metrics, dict[str, tuple[float, float]]]:
    """Accuracy with its interval; nothing where no answer could be judged."""
    judged = [found for group in groups if (found := marks(group.samples))]
    if not judged:
        return {}, {}
    right, count = sum(map(sum, judged)), sum(map(len, judged))
    several = count > len(judged) > 1
    interval = (
        share_interval([statistics.fmean(group) for group in judged])
        if several
        else proportion(right, count)
    )
    return {"accuracy" + suffix: right / count}, {"accuracy" + suffix: interval}


def _by_prompt(groups: Sequence[Group]) -> dict[str, list[float]]:
    """The mean of each prompt's answers: reward (of those that have one), length, truncated."""
    rewards = [[s.reward for s in g.samples if not math.isnan(s.reward)] for g in groups]
    found = {"reward": [statistics.fmean(of_prompt) for of_prompt in rewards if of_prompt]}
    found["length"] = [statistics.fmean(int(s.mask.sum()) for s in g.samples) for g in groups]
    found["truncated"] = [
        statistics.fmean(s.finish is Finish.LENGTH for s in g.samples) for g in groups
    ]
    return {name: values for name, values in found.items() if values}


def _all_or_nothing(groups: Sequence[Group]) -> bool:
    """Whether every reward is 1 or 0, as those of verifiers are, or could not be given."""
    rewards = {s.reward for group in groups for s in group.samples if not math.isnan(s.reward)}
    return rewards <= {0.0, 1.0}


def _of_prompts(examination: Examination, groups: Sequence[Group]) -> dict[str, list[bool]]:
    """Of each prompt whose answers could be judged: whether one is right, and the majority is."""
    judged = [
        [s for s in group.samples if s.outcome in JUDGED]
        for group in groups
        if marks(group.samples)
    ]
    if not judged:
        return {}
    return {
        "pass": [any(marks(samples)) for samples in judged],
        "majority": [_majority(samples, examination) for samples in judged],
    }


def _majority(samples: Sequence[Sample], examination: Examination) -> bool:
    """Whether the most frequent answer is right; of several, the one that came first."""
    said = [examination.extract(examination.text(sample)) for sample in samples]
    winner, _ = Counter(said).most_common(1)[0]
    return samples[said.index(winner)].outcome is Outcome.OK


def _own(examination: Examination, groups: Sequence[Group]) -> Metrics:
    """Means of the metrics of the task over the responses; None is left out."""
    return means(
        examination.describe(examination.text(sample), group.prompt.columns)
        for group in groups
        for sample in group.samples
    )


def means(described: Iterable[Mapping[str, float | None]]) -> Metrics:
    """The mean of each named value over the answers that it applies to."""
    values: dict[str, list[float]] = {}
    for answer in described:
        for name, value in answer.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: statistics.fmean(numbers) for name, numbers in sorted(values.items())}
