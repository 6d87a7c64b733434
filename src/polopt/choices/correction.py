"""The weight of samples from a behaviour policy other than π_old."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.coordination import stale
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import NonNegative, PositiveFloat, Section, Values, by_row

_MATH = "polopt.math.corrections:"
_CAPS = {"low": "objective.correction_low", "high": "objective.correction_high"}


class Correction(Section):
    """Fields of the correction."""

    correction: Annotated[
        Literal[
            "none",
            "token_tis",
            "token_mask",
            "sequence_tis",
            "sequence_mask",
            "sequence_geometric_mask",
        ]
        | None,
        by_row("none"),
    ] = Field(default=None, description="weight for samples of another policy than pi_old")
    correction_low: NonNegative = Field(
        default=0.0, description="least weight, or lower end of what is kept"
    )
    correction_high: Annotated[PositiveFloat | None, by_row()] = Field(
        default=None, description="largest weight (2 is usual), or upper end of what is kept"
    )


def _notes(values: Values) -> Iterator[str]:
    chosen = values["objective.correction"]
    if chosen not in (None, "none") and not stale(values):
        yield (
            f"objective.correction = {chosen} has no effect beyond rounding: with "
            "coordination.staleness = 0 the weights that train are the ones that sampled"
        )


def _choice(function: str, equation: str) -> Choice:
    return Choice(_MATH + function, equation, arguments=_CAPS, domains=OF_LANGUAGE)


COLUMN = Column(
    "correction",
    "objective.correction",
    {
        "none": Choice("polopt.objective.policy_gradient:UNCORRECTED", "w = 1"),
        "token_tis": _choice("token_truncated", "w = clip(uₜ, low, high), uₜ = π_old / π_rollout"),
        "token_mask": _choice("token_masked", "w = uₜ where low ≤ uₜ ≤ high, else 0"),
        "sequence_tis": _choice("sequence_truncated", "w = clip(Πₜ uₜ, low, high)"),
        "sequence_mask": _choice("sequence_masked", "w = Πₜ uₜ where low ≤ Πₜ uₜ ≤ high, else 0"),
        "sequence_geometric_mask": _choice(
            "sequence_geometric_masked", "w = uₜ where low ≤ exp(1/n Σₜ log uₜ) ≤ high, else 0"
        ),
    },
    only={"control": "none"},
    notes=_notes,
)
