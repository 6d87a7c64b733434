"""Sections of a recipe, kinds of numbers in them, and the facts that a field carries.

A fact hangs on ``Annotated`` beside the type, so that a field is known in one place: its range, its
default, where it has an effect, and what to say where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from polopt.choices import domain

LARGEST = 2**31 - 1  # of every count: what a 32-bit index holds

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str
Values = Mapping[str, Any]
"""Every field of a stage by its dotted name."""


@dataclass(frozen=True)
class ByRow:
    """The row decides; ``values`` are the defaults for rows without a value of their own."""

    values: Mapping[str, Scalar]  # by the name of the domain, "" for those that are not named


def by_row(value: Scalar | None = None, **elsewhere: Scalar) -> ByRow:
    """``by_row(1.0, control=0.99)``: a default for every domain, and another one in control."""
    return ByRow(elsewhere if value is None else {"": value, **elsewhere})


@dataclass(frozen=True)
class In:
    """The domains where the field has an effect; default: those of its section."""

    domains: tuple[str, ...]


EVERYWHERE = In(domain.EVERYWHERE)
OF_LANGUAGE = In(domain.OF_LANGUAGE)
OF_NETWORKS = In(domain.OF_NETWORKS)


@dataclass(frozen=True)
class OnlyFor:
    """The field has an effect in rows that require this of their data."""

    requirement: str


@dataclass(frozen=True)
class Needs:
    """The field has an effect only where another one has the right value."""

    other: str
    met: Callable[[Values], bool]
    words: str  # the required value, in words


@dataclass(frozen=True)
class Idle:
    """When the field has no effect for another reason: the reason in words, or None."""

    reason: Callable[[Values], str | None]


@dataclass(frozen=True)
class Inert:
    """When the field is allowed but has no effect: the reason in words, or None."""

    reason: Callable[[Values], str | None]


Series = Mapping[str, Sequence[float]]
"""Metrics of the steps of a stage: the values that each of them had."""


@dataclass(frozen=True)
class Counted:
    """When the steps of a run show that the field did nothing: what they show, or None."""

    metrics: tuple[str, ...]  # without one of them nothing is shown
    shows: Callable[[Values, Series], str | None]


@dataclass(frozen=True)
class AlsoReadWith:
    """A flag of another section that reads the field, too, whatever the column has chosen."""

    other: str


def needs(other: str, *names: str) -> Needs:
    """The other field must be one of these."""
    return Needs(other, lambda values: values[other] in names, either(names))


def needs_some(other: str, words: str = "a value above 0") -> Needs:
    """The other field must be neither empty nor 0."""
    return Needs(other, lambda values: bool(values[other]), words)


def never(metric: str, words: str) -> Counted:
    """The metric counts how often the field acts, and was 0 all the time."""
    return Counted((metric,), lambda _, series: None if any(series[metric]) else words)


def either(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


class Section(BaseModel):
    """A table of the recipe: unknown keys, NaN and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )
    facts: ClassVar[tuple[object, ...]] = (OF_LANGUAGE,)  # of fields that have none of a kind
