"""One entry of a column, with all that is known of it; a column of such entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from polopt.choices.domain import EVERYWHERE
from polopt.choices.section import Values, either

Trait = Literal["compares", "centres", "sums", "to the end", "vanishes"]
"""A trait that others read: the choice compares the responses to one prompt, subtracts the mean of
the batch, reads the total reward of a response alone, needs whole episodes, or is a loss of 0, with
gradient 0, where the advantage is 0."""


@dataclass(frozen=True)
class Takes:
    """A field in which the choice allows certain values only."""

    field: str
    values: tuple[str, ...]
    because: str = ""  # continues "is not allowed with COLUMN = NAME"

    def problem(self, chosen: str, value: str) -> str:
        """What is wrong with ``value`` beside ``chosen``, such as ``objective.bound = gmpo``."""
        reason = f", {self.because}" if self.because else ""
        return f'"{value}" is not allowed with {chosen}{reason}; it must be {either(self.values)}'


@dataclass(frozen=True)
class Choice:
    """One entry of a column: ``Choice("polopt.math.divergence:k3", "e^-d - 1 + d")``."""

    function: str  # module:name, called in the assembly of a stage
    equation: str
    formula: str = ""  # module:name of its mathematics; default: the function itself
    arguments: Mapping[str, str] | None = None  # of the function, by the fields that hold them
    factory: bool = False  # called with the arguments; otherwise they are bound to it
    adapter: str | None = None  # module:name, wraps it into the type of the column
    follows: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str]
    )  # arguments that are adaptive numbers, by the field that each replaces
    reads: tuple[str, ...] = ()  # more fields that have an effect with it and are shown with it
    takes: tuple[Takes, ...] = ()
    traits: frozenset[Trait] = frozenset()
    roles: tuple[str, ...] = ()  # that it requires
    losses: tuple[str, ...] = ()  # of these roles
    replaces: Mapping[str, Choice] = dataclasses.field(
        default_factory=dict[str, "Choice"]
    )  # choices that it puts into other columns
    domains: tuple[str, ...] = EVERYWHERE
    elsewhere: Mapping[str, Variant] = dataclasses.field(
        default_factory=dict[str, "Variant"]
    )  # how it differs in other domains

    @property
    def file(self) -> str:
        """The file of its mathematics, from the root of the repository."""
        module = (self.formula or self.function).partition(":")[0]
        return f"src/{module.replace('.', '/')}.py"

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that it reads."""
        return (*(self.arguments or {}).values(), *self.reads)

    def on(self, domain: str) -> Choice:
        """The choice as it is in a domain."""
        if domain not in self.elsewhere:
            return self
        found = dataclasses.asdict(self.elsewhere[domain])
        return dataclasses.replace(self, **{k: v for k, v in found.items() if v is not None})


@dataclass(frozen=True)
class Variant:
    """The parts of a choice that differ in a domain."""

    equation: str
    function: str | None = None
    arguments: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Column:
    """A column: one decision that every row makes, and its choices."""

    name: str
    field: str | None  # of a recipe that decides it; None: the row alone does
    choices: Mapping[str, Choice]
    only: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str]
    )  # the one choice of a domain in which the field has no effect
    reads: tuple[str, ...] = ()  # fields that are shown beside every choice
    notes: Callable[[Values], Iterator[str]] | None = None  # on misleading settings

    def readers(self, field: str) -> tuple[str, ...]:
        """The choices that read a field."""
        return tuple(name for name, one in self.choices.items() if field in one.fields)
