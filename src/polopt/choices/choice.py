"""One entry of a column, with all that is known of it; a column of such entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from polopt.choices.domain import EVERYWHERE
from polopt.choices.section import Values, either

Trait = Literal["compares", "centres", "sums", "to the end"]
"""What checks ask of a choice: that it compares the responses to one prompt, takes away the mean of
the batch, reads what a response earned and not where, runs to the end of an episode."""


@dataclass(frozen=True)
class Takes:
    """A field that the choice reads in one way only."""

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

    function: str  # module:name, what a stage is built from
    equation: str
    formula: str = ""  # module:name, where its mathematics stands; default: the function itself
    arguments: Mapping[str, str] | None = None  # of the function: the fields that they come from
    factory: bool = False  # called with the arguments; otherwise they are bound to it
    adapter: str | None = None  # module:name, makes of it what the column is a choice of
    follows: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str]
    )  # arguments that stand in fields of which no recipe speaks here: numbers that move
    reads: tuple[str, ...] = ()  # more fields that have an effect with it, and are shown beside it
    takes: tuple[Takes, ...] = ()
    traits: frozenset[Trait] = frozenset()
    roles: tuple[str, ...] = ()  # that it calls for
    losses: tuple[str, ...] = ()  # that come with them
    replaces: Mapping[str, Choice] = dataclasses.field(
        default_factory=dict[str, "Choice"]
    )  # what stands in other columns beside it
    domains: tuple[str, ...] = EVERYWHERE
    elsewhere: Mapping[str, Variant] = dataclasses.field(
        default_factory=dict[str, "Variant"]
    )  # what it is in other domains

    @property
    def file(self) -> str:
        """Where the mathematics stands, from the root of the repository."""
        module = (self.formula or self.function).partition(":")[0]
        return f"src/{module.replace('.', '/')}.py"

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that it reads."""
        return (*(self.arguments or {}).values(), *self.reads)

    def on(self, domain: str) -> Choice:
        """What it is in a domain."""
        if domain not in self.elsewhere:
            return self
        found = dataclasses.asdict(self.elsewhere[domain])
        return dataclasses.replace(self, **{k: v for k, v in found.items() if v is not None})


@dataclass(frozen=True)
class Variant:
    """What is another about a choice in some domain; the rest stays."""

    equation: str
    function: str | None = None
    arguments: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Column:
    """A decision of every row, and what there is to decide between."""

    name: str
    field: str | None  # of a recipe, that chooses; None: the row alone does
    choices: Mapping[str, Choice]
    only: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str]
    )  # the one choice of a domain in which the field has no effect
    reads: tuple[str, ...] = ()  # fields that are shown beside every choice
    notes: Callable[[Values], Iterator[str]] | None = None  # what is allowed, and not what it seems

    def readers(self, field: str) -> tuple[str, ...]:
        """The choices that read a field."""
        return tuple(name for name, one in self.choices.items() if field in one.fields)
