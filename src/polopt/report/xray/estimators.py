"""The estimators of the KL on the page: a table of values, one of gradients, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polopt.report.kl import PLACES, degrees, direction, is_exact
from polopt.report.text import number, percent
from polopt.report.xray.words import estimate

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """An estimator."""

    name: str
    sampled: str
    average: str
    bias: str
    dead: str
    gradients: list[tuple[str, bool]]  # in each place, and whether the run has it there


@dataclass(frozen=True)
class Estimators:
    """All of them, of one pair of models."""

    sentence: str
    answers: int
    tokens: int
    exact: str
    places: list[str]
    rows: list[Shown]


def estimators(found: Json) -> Estimators | None:
    """What the page shows; None: no answer had a token."""
    measured: Json | None = found["estimators"]
    if measured is None:
        return None
    used: Json = found["trained"]["kl"] or {}
    return Estimators(
        sentence=_sentence(measured, used),
        answers=measured["answers"],
        tokens=measured["tokens"],
        exact=estimate(measured["kl"]),
        places=list(PLACES.values()),
        rows=[_shown(one, used) for one in measured["estimators"]],
    )


def _shown(one: Json, used: Json) -> Shown:
    dead = max(one["dead"], one["dead_reference"])
    return Shown(
        name=one["name"],
        sampled=estimate(one["sampled"]),
        average="–" if one["average"] is None else number(one["average"]),
        bias=_bias(one["bias"]),
        dead=f"{percent(one['dead'])}, {percent(one['dead_reference'])}" if dead else "none",
        gradients=[
            (
                _pull(one["gradients"][place]),
                (one["name"], place) == (used.get("estimator"), used.get("place")),
            )
            for place in PLACES
        ],
    )


def _bias(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:+.1f}\u202f%" if abs(share) >= 5e-4 else "none"


def _pull(one: Json | None) -> str:
    """``12°, 0.8×``, or that it is the exact one."""
    if one is None:
        return "–"
    if one["angle"] is None:
        return "none on average"
    if is_exact(one["length"], one["angle"]):
        return "exact"
    return f"{degrees(one['angle'])}, {one['length']:.2f}×"


def _sentence(measured: Json, used: Json) -> str:
    """What the run had, if it had a KL term."""
    for one in measured["estimators"]:
        if one["name"] == used.get("estimator") and used.get("place") in PLACES:
            pull = one["gradients"][used["place"]] or {"length": None, "angle": None}
            said = direction(pull["length"], pull["angle"])
            return f"The run had {one['name']} {PLACES[used['place']]}, which {said}."
    return ""
