"""Which fields have an effect: a setting without one is refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from polopt.choices import COLUMNS, Choice, Column
from polopt.choices.domain import DOMAINS
from polopt.choices.roles import OF_OWN_CRITIC
from polopt.choices.section import AlsoReadWith, Idle, Needs, Values, either
from polopt.recipe.fields import domain_of, domains, fact, facts
from polopt.recipe.messages import shown
from polopt.recipe.row import Row


@dataclass(frozen=True)
class Chosen:
    """The choice in a column."""

    column: Column
    name: str
    choice: Choice  # as it is in the domain


def chosen_by_fields(values: Values) -> Iterator[Chosen]:
    """The choices that the fields of a stage make, by column."""
    domain = domain_of(values)
    for column in COLUMNS.values():
        name = None if column.field is None else values.get(column.field)
        if name is not None:
            yield Chosen(column, name, column.choices[name].on(domain))


def idle(row: Row, values: Values, field: str) -> str | None:
    """Why the field has no effect, and what to do; None where it has one."""
    if not row.has(field):
        return f"no effect in {row.name}; remove it"
    where, domain = domains(field), domain_of(values)
    if where and domain not in where:
        sources = [DOMAINS[name].sources for name in where if DOMAINS[name].sources]
        advice = (
            "remove it" if DOMAINS[domain].sources or not sources else f"it needs {either(sources)}"
        )
        return f"no effect with data.source = {shown(values['data.source'])}; {advice}"
    for one in facts().get(field, ()):
        if isinstance(one, Idle) and (reason := one.reason(values)) is not None:
            return reason
    if field in _of_row(row, domain):
        return None
    need = OF_OWN_CRITIC if field in row.of_critic else fact(field, Needs) or _readers(field)
    return None if need is None else _unmet(row, values, need)


def _unmet(row: Row, values: Values, need: Needs) -> str | None:
    if (reason := idle(row, values, need.other)) is not None:
        return reason
    if need.met(values):
        return None
    if values[need.other] is None:
        return f"no effect without {need.other}"
    return f"no effect with {need.other} = {shown(values[need.other])}; it needs {need.words}"


@cache
def _of_row(row_: Row, domain: str) -> frozenset[str]:
    """The fields that the fixed choices of the row read."""
    place = row_.places.get(domain)
    own = [("update", row_.update), *(("roles", role) for role in row_.roles), *row_.fixed.items()]
    own += [] if place is None else [("rollout", place.rollout)]
    return frozenset(f for column, name in own for f in COLUMNS[column].choices[name].fields)


@cache
def _readers(field: str) -> Needs | None:
    """The requirement that some choice reads the field; None where no choice ever does."""
    by_column = {
        column.field: names
        for column in COLUMNS.values()
        if column.field is not None and (names := column.readers(field))
    }
    if not by_column:
        return None
    also = fact(field, AlsoReadWith)
    other, names = next(iter(by_column.items()))

    def met(values: Values) -> bool:
        read = any(values.get(column) in names for column, names in by_column.items())
        return read or (also is not None and bool(values.get(also.other)))

    return Needs(other, met, either(names))
