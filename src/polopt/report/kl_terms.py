"""What the KL term of each stage did at the newest evaluation that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polopt.report.kl import ESTIMATORS, PLACES, bias, direction
from polopt.report.plots import is_number
from polopt.report.read import Row, RunRecord
from polopt.report.text import number, percent

LEAST = 1e-6  # nats a token: below it there is rounding


@dataclass(frozen=True)
class KLTerm:
    """The KL term of a stage."""

    stage: str
    step: int
    used: str  # "k3 in the loss"
    sentences: Sequence[str]
    rows: Sequence[tuple[str, str]]  # what, and nats a token with their interval


def kl_terms(record: RunRecord) -> list[KLTerm]:
    """Of each stage that measured its KL term."""
    found = list[KLTerm]()
    for stage in record.config["stages"]:
        measured = [
            row
            for row in record.metrics
            if row.get("stage") == stage["name"] and is_number(row.get("kl/exact"))
        ]
        if measured:
            found.append(_term(stage, measured[-1]))
    return found


def _term(stage: Row, row: Row) -> KLTerm:
    used = _used(stage.get("settings") or {})
    return KLTerm(stage["name"], row["step"], used, _sentences(row, used), _rows(row))


def _used(settings: dict[str, Any]) -> str:
    """The estimator and where it acts, as far as the record has them."""
    estimator, placement = (settings.get(f"kl.{name}") for name in ("estimator", "placement"))
    if placement == "loss" and settings.get("kl.importance_corrected"):
        placement = "corrected loss"
    return f"{estimator or 'the estimator'} {PLACES.get(str(placement), '')}".rstrip()


def _known(row: Row, name: str) -> float | None:
    return value if is_number(value := row.get(f"kl/{name}")) else None


def _sentences(row: Row, used: str) -> list[str]:
    exact = row["kl/exact"]
    if exact < LEAST:
        return ["Policy and reference are the same so far: there is nothing to compare."]
    said = [f"{used} {direction(_known(row, 'gradient_length'), _known(row, 'gradient_angle'))}."]
    if (average := _known(row, "average")) is not None:
        said.append(f"Its value is on average {bias(average, exact)}.")
    tokens, missed = _known(row, "dead_tokens") or 0.0, _known(row, "dead_reference") or 0.0
    if max(tokens, missed) >= 5e-4:  # less would be written as 0.0 %
        said.append(
            f"{percent(tokens)} of the sampled tokens stand beyond its clamp, where it has no "
            f"gradient; the reference gives {percent(missed)} to tokens there."
        )
    return said


def _rows(row: Row) -> list[tuple[str, str]]:
    named = {"exact": "exact, over the vocabulary", "average": "what the run uses, on average"}
    named |= {name: f"{name} of the sampled tokens" for name in ESTIMATORS}
    return [
        (title, f"{number(value)}{_interval(row, name)}")
        for name, title in named.items()
        if (value := _known(row, name)) is not None
    ]


def _interval(row: Row, name: str) -> str:
    low, high = _known(row, f"{name}_low"), _known(row, f"{name}_high")
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"
