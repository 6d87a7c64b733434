"""The figures of a stage's evaluation, before and after: which matter, in order and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from polopt.record import HEADLINES, words_of
from polopt.report.plots import is_number


@dataclass(frozen=True)
class Kind:
    """A kind of stage, and what of its evaluation matters."""

    measures: str  # a metric that the kinds after it do not have
    matter: Mapping[str, str]  # the figures in their order: name, words


@dataclass(frozen=True)
class Value:
    """One figure with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change:
    """One figure before and after a stage; None: it was not measured then."""

    name: str
    before: Value | None
    after: Value | None

    @property
    def numbers(self) -> list[float]:
        """All that was measured, with the ends of the intervals."""
        known = [value for value in (self.before, self.after) if value is not None]
        return [x for v in known for x in (v.value, v.low, v.high) if x is not None]


KINDS = (  # a stage is of the first whose metric it measures
    Kind(
        "return_mean",
        {
            "return_mean": words_of("return_mean"),
            "length": "steps of an episode",
            "reached_limit": "reached the time limit",
        },
    ),
    Kind(
        "token_accuracy",
        {
            "nll": "loss on demonstrations",
            "token_accuracy": words_of("token_accuracy"),
            "accuracy": "accuracy of answers",
            "reward": words_of("reward"),
        },
    ),
    Kind(
        "pair_accuracy",
        {
            "pair_accuracy": words_of("pair_accuracy"),
            "reward_margin": "margin of pairs",
            "accuracy": "accuracy of answers",
            "reward": words_of("reward"),
        },
    ),
    Kind(  # a reward model, whose accuracy is that on pairs
        "calibration_error",
        {
            "accuracy": words_of("pair_accuracy"),
            "calibration_error": "calibration error",
            "reward_margin": "margin of pairs",
        },
    ),
    Kind(
        "length",
        {
            "accuracy": words_of("accuracy"),
            "reward": words_of("reward"),
            "kl": "KL from the reference",
            "length": "tokens of a response",
            "truncated": "cut at the length limit",
        },
    ),
)
OTHER = Kind("", {name: one.said for name, one in HEADLINES.items()})
SHARES = {*(name for name, one in HEADLINES.items() if one.is_share), "truncated", "reached_limit"}


def kind_of(measured: Iterable[str]) -> Kind:
    """The kind of a stage by what it measures."""
    names = set(measured)
    return next((kind for kind in KINDS if kind.measures in names), OTHER)


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Change]:
    """The figures of two evaluations as ``summary.json`` has them: those that matter come first."""
    tables = [_values(one) for one in (before, after)]
    names = dict.fromkeys(name for table in tables for name in table)
    order = [name for name in kind_of(names).matter if name in names]
    order += [name for name in names if name not in order]
    return [Change(name, *(table.get(name) for table in tables)) for name in order]


def of_stages(summary: Mapping[str, Any]) -> list[tuple[str, list[Change]]]:
    """Each stage of a summary with its figures; older runs have those of the last one alone."""
    stages: list[Mapping[str, Any]] = list(summary.get("stages") or [{}])
    found = [(stage.get("before"), stage.get("after")) for stage in stages]
    if not any(one for both in found for one in both):
        found[-1] = (_flat(summary, "before"), _flat(summary, "after"))
    return [
        (str(stage.get("name", "")), changes(*both))
        for stage, both in zip(stages, found, strict=True)
    ]


def decimals(numbers: Iterable[float]) -> int:
    """Digits after the point with which all of these numbers can be told apart: 3 below 10."""
    largest = max(map(abs, numbers), default=0.0)
    if 0.01 <= largest < 10 or largest < 1e-9:
        return 3
    above = math.floor(math.log10(largest))
    return max(0, 3 - above) if above > 0 else 2 - above


def fixed(value: float, digits: int) -> str:
    """A number with so many digits after the point; never -0.000."""
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def _values(evaluation: Mapping[str, Any] | None) -> dict[str, Value]:
    metrics: Mapping[str, Any] = (evaluation or {}).get("metrics") or {}
    intervals: Mapping[str, Any] = (evaluation or {}).get("intervals") or {}
    return {
        name: Value(value, *_ends(intervals.get(name)))
        for name, value in metrics.items()
        if is_number(value)
    }


def _ends(interval: object) -> tuple[float | None, float | None]:
    match interval:
        case [low, high] if is_number(low) and is_number(high):
            return low, high
        case _:
            return None, None


def _flat(summary: Mapping[str, Any], when: str) -> dict[str, Any]:
    """The figures of the last stage, which stand at the top of the summary."""
    end = f"_{when}"
    names = [key.removesuffix(end) for key in summary if key.endswith(end)]
    return {
        "metrics": {name: summary[name + end] for name in names},
        "intervals": {name: summary.get(f"{name}{end}_interval") for name in names},
    }
