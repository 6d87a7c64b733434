"""What each stage changed: the figures that matter, before and after it, as the page shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.report.measures import SHARES, Change, Value, changes, decimals, fixed, kind_of
from polopt.report.measures import of_stages as summed_up
from polopt.report.plots import is_number
from polopt.report.read import Row, RunRecord
from polopt.report.text import number, percent

KL = {  # of the last batch of training, where no evaluation has one
    "kl/measured": "KL from the reference, last batch",
    "policy/kl_reference": "KL of a token, last batch",
}


@dataclass(frozen=True)
class Scale:
    """The axis on which figures are shown."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """The position of a value on the axis: 0 is the left end, 1 the right one."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Mark:
    """A figure: in words, and as a dot with its interval on the axis of its row."""

    kind: str  # before or after
    value: str
    interval: str  # "0.25 to 0.5"; empty: none
    at: float  # share of the axis from its left end, as are the next two
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Measured:
    """One figure of a stage, before and after."""

    title: str
    marks: Sequence[Mark]  # those of before and after that are known
    ends: tuple[str, str] | None  # of the axis; None: no axis

    def mark(self, kind: str) -> Mark | None:
        """That of before, or of after."""
        return next((mark for mark in self.marks if mark.kind == kind), None)


@dataclass(frozen=True)
class Changed:
    """What a stage changed."""

    stage: str
    algorithm: str
    figures: Sequence[Measured]


def changed(record: RunRecord) -> list[Changed]:
    """Of each stage the figures that matter; stages without any are left out."""
    listed = dict(_listed(record))
    stages: list[Row] = record.config["stages"]
    found = [
        Changed(
            stage["name"],
            str(stage.get("algorithm", "")),
            _figures(record, stage["name"], listed.get(stage["name"], [])),
        )
        for stage in stages
    ]
    return [one for one in found if one.figures]


def _listed(record: RunRecord) -> Iterable[tuple[str, list[Change]]]:
    """By the summary where it has the stage, else by the recorded evaluations."""
    stages: list[Row] = record.config["stages"]
    for stage in stages:
        yield stage["name"], changes(*_recorded(record, stage["name"]))
    for name, figures in summed_up(record.summary or {}):
        if figures:
            yield name or stages[-1]["name"], figures


def _recorded(record: RunRecord, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation before the stage, and its newest one."""
    rows = [row for row in record.metrics if row.get("stage") == stage]
    before = [found for row in rows if row.get("stage_step") == 0 and (found := _evaluation(row))]
    later = [found for row in rows if row.get("stage_step") != 0 and (found := _evaluation(row))]
    return (before or [{}])[0], (later or [{}])[-1]


def _evaluation(row: Row) -> dict[str, Any]:
    """The evaluation of a line of metrics as ``summary.json`` has it; empty: there is none."""
    named = {
        name.removeprefix("eval/"): value for name, value in row.items() if name.startswith("eval/")
    }
    intervals = {
        name: [named[f"{name}_low"], named[f"{name}_high"]]
        for name in named
        if f"{name}_low" in named and f"{name}_high" in named
    }
    ends = {f"{name}_{end}" for name in intervals for end in ("low", "high")}
    metrics = {name: value for name, value in named.items() if name not in ends}
    return {"metrics": metrics, "intervals": intervals} if metrics else {}


def _figures(record: RunRecord, stage: str, found: list[Change]) -> list[Measured]:
    known = {one.name: one for one in found}
    kind = kind_of(known)
    if _says_the_same(known.get("reward"), known.get("accuracy")):
        del known["reward"]
    shown: list[Measured] = []
    for name, title in kind.matter.items():
        if name in known:
            shown.append(_measured(known[name], title))
        elif name == "kl":
            shown += _last_kl(record, stage)
    return shown


def _says_the_same(one: Change | None, other: Change | None) -> bool:
    """Whether a reward is that of a verifier: 1 for what is right, and 0 for the rest."""
    return one is not None and other is not None and _values(one) == _values(other) != [None, None]


def _values(change: Change) -> list[float | None]:
    return [None if value is None else value.value for value in (change.before, change.after)]


def _last_kl(record: RunRecord, stage: str) -> list[Measured]:
    rows = [row for row in record.metrics if row.get("stage") == stage]
    for name, title in KL.items():
        if known := [row[name] for row in rows if is_number(row.get(name))]:
            return [_measured(Change("kl", None, Value(known[-1], None, None)), title)]
    return []


def _measured(change: Change, title: str) -> Measured:
    is_share = change.name in SHARES
    scale = Scale(0.0, 1.0) if is_share else around(change.numbers)
    digits = decimals(change.numbers)
    marks = [
        Mark(
            kind,
            percent(one.value) if is_share else fixed(one.value, digits),
            _interval(one, is_share, digits),
            scale.share(one.value),
            None if one.low is None else scale.share(one.low),
            None if one.high is None else scale.share(one.high),
        )
        for kind, one in (("before", change.before), ("after", change.after))
        if one is not None
    ]
    ends = ("0", "100\u202f%") if is_share else (number(scale.low), number(scale.high))
    return Measured(title, marks, ends if len(marks) > 1 else None)


def _interval(one: Value, is_share: bool, digits: int) -> str:
    if one.low is None or one.high is None:
        return ""
    if is_share:
        return f"{100 * one.low:.1f} to {percent(one.high)}"
    return f"{fixed(one.low, digits)} to {fixed(one.high, digits)}"


def around(values: Sequence[float]) -> Scale:
    """Round numbers around everything that was measured."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    rough = max((high - low) / 4, max(abs(low), abs(high)) / 100, 1e-9)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Scale(first * step, max(last, first + 1) * step)
