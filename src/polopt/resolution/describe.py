"""Rows and resolved stages as plain tables: for the command line, config.json and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from polopt.algorithms import ROWS, row
from polopt.choices import COLUMNS, Choice
from polopt.choices.domain import DOMAINS
from polopt.recipe import StageRecipe, load
from polopt.recipe.fields import domains, flat
from polopt.recipe.row import Row
from polopt.resolution.effects import chosen_by_fields, idle

Entry = dict[str, Any]
QUIET = (None, "none", "fixed")  # choices that do nothing


def settings(stage: StageRecipe) -> dict[str, Any]:
    """Every field of a resolved stage that has an effect, by dotted name, as JSON has it."""
    one = row(stage.algorithm)
    values = flat(stage)
    plain = stage.model_dump(mode="json", by_alias=True, exclude_none=True)
    settled: dict[str, Any] = {}
    for field in values:
        section, _, key = field.partition(".")
        value = plain[section].get(key) if key else plain.get(section)
        if value is not None and idle(one, values, field) is None:
            settled[field] = value
    return settled


def describe(stage: StageRecipe) -> list[Entry]:
    """The row of a resolved stage: column, choice, equation, file and settings."""
    values = {"data.source": stage.data.source, **settings(stage)}
    return list(_Described(row(stage.algorithm), values, stage.domain).entries())


def describe_row(name: str, domain: str = "") -> list[Entry]:
    """The same for a row with its defaults in a domain; default: its first domain."""
    one = row(name)
    domain = domain or one.domains[0]
    return list(_Described(one, _defaults(one, domain), domain).entries())


def differences(name: str, domain: str) -> list[Entry]:
    """The lines of a row that differ in a domain from those in its first domain."""
    home = {(entry["column"], entry["choice"]): entry for entry in describe_row(name)}
    return [
        entry
        for entry in describe_row(name, domain)
        if home.get((entry["column"], entry["choice"])) != entry
    ]


def table() -> list[Entry]:
    """All rows, one object each: the choice in every column, and the file."""
    return [_summary(one) for one in ROWS.values()]


def _summary(one: Row) -> Entry:
    described = _Described(one, _defaults(one, one.domains[0]), one.domains[0])
    cells = {entry["column"]: entry["choice"] for entry in described.entries()}
    cells |= {
        "roles": described.roles(),
        "extra_losses": described.losses(),
        "domains": list(one.domains),
    }
    return {"name": one.name, **cells, "file": one.file, "summary": one.summary}


def _defaults(one: Row, domain: str) -> dict[str, Any]:
    """The defaults of a row, without those that have no effect beside the others."""
    defaults = one.defaults(domain)
    values = flat(load({"algorithm": one.name, **DOMAINS[domain].example}).stages[0]) | defaults
    found = {f: v for f, v in defaults.items() if idle(one, values, f) is None}
    return {"data.source": values["data.source"], **found}


class _Described:
    """The description of a row with values; fields without a value have no effect."""

    def __init__(self, one: Row, values: Mapping[str, Any], domain: str) -> None:
        self._row, self._values, self._domain = one, values, domain
        self._chosen = {entry.column.name: entry for entry in chosen_by_fields(values)}
        self._replaced = {
            column: choice
            for entry in self._chosen.values()
            for column, choice in entry.choice.replaces.items()
        }

    def entries(self) -> Iterator[Entry]:
        """The lines of all columns, in order."""
        one, place = self._row, self._row.places[self._domain]
        again = bool(self._values.get("rollout.resample_rounds"))
        yield self._entry("rollout", place.rollout)
        yield from self._active("exploration")
        yield from (self._entry(column, name) for column, name in one.fixed.items())
        yield from self._active("temperature")
        yield from [self._entry("filter", "informative")] if again else []
        yield from (self._entry("shaping", name) for name in self._shapers())
        yield from self._active("spread")
        yield from (self._of_field(name) for name in ("returns", "baseline", "normalisation"))
        yield from self._active("select")
        yield from (self._of_field(name) for name in ("ratio", "bound"))
        yield from self._active("mask", "correction", "preference")
        yield self._kl()
        yield from self._active("controller")
        yield self._of_field("aggregation")
        yield self._entry("update", one.update)
        yield from (self._entry("roles", name) for name in self.roles())
        yield from (self._entry("extra_losses", name) for name in self.losses() or [None])
        yield self._entry("coordination", place.coordination)

    def roles(self) -> list[str]:
        """Those of the row, and those that its settings require."""
        called = dict.fromkeys(r for one in self._chosen.values() for r in one.choice.roles)
        if any(reward.get("model") for reward in self._values.get("rewards", ())):
            called["reward_model"] = None
        if self._values.get("kl.coefficient"):
            called["reference"] = None
        order = [name for name in COLUMNS["roles"].choices if name in called]
        if self._values.get("kl.refresh_every"):
            order = ["lagged_reference" if name == "reference" else name for name in order]
        return [*self._row.roles, *order]

    def losses(self) -> list[str]:
        """Those of the row, and those that its settings require."""
        called = dict.fromkeys(x for one in self._chosen.values() for x in one.choice.losses)
        if self._values.get("objective.entropy_coefficient"):
            called["entropy"] = None
        if self._values.get("pretraining.source"):
            called["pretraining"] = None
        order = [name for name in COLUMNS["extra_losses"].choices if name in called]
        return [*self._row.extra_losses, *order]

    def _shapers(self) -> list[str]:
        called = {"overlong": "credit.overlong_penalty", "length": "credit.length_reward"}
        return [name for name, field in called.items() if self._values.get(field)]

    def _of_field(self, column: str) -> Entry:
        """The line of a column that a field decides, unless another choice replaces it."""
        chosen = self._chosen.get(column)
        if column in self._replaced:
            name = "none" if chosen is None else chosen.name
            return _line(column, name, self._replaced[column], {})
        if chosen is not None:
            return self._entry(column, chosen.name)
        field, only = COLUMNS[column].field, COLUMNS[column].only.get(self._domain)
        return self._entry(column, only if field and self._row.has(field) else None)

    def _active(self, *columns: str) -> Iterator[Entry]:
        """The lines of columns that are listed only where they do something."""
        for column in columns:
            chosen = self._chosen.get(column)
            if chosen is not None and chosen.name not in QUIET:
                yield self._entry(column, chosen.name)

    def _entry(self, column: str, name: str | None) -> Entry:
        """One line; ``None``: the row has no such column."""
        if name is None:
            return _line(column, "none", None, {})
        choice = COLUMNS[column].choices[name].on(self._domain)
        return _line(column, name, choice, self._given(*choice.fields, *COLUMNS[column].reads))

    def _kl(self) -> Entry:
        """Estimator and placement in one line."""
        values = self._values
        if not values.get("kl.coefficient"):
            return _line("kl", "none", None, {})
        estimator, placement = values["kl.estimator"], values["kl.placement"]
        choice = COLUMNS["estimator"].choices[estimator]
        where = COLUMNS["placement"].choices[placement].equation
        name = f"{estimator} in {placement}"
        if placement == "loss" and values.get("kl.importance_corrected"):
            where, name = where.replace("β k", "β ρₜ k"), f"ρ {name}"
        equation = f"{where}, {choice.equation}"
        return {**_line("kl", name, choice, self._given("kl.coefficient")), "equation": equation}

    def _given(self, *fields: str) -> dict[str, Any]:
        """The values of these fields that have an effect in the domain."""
        values = self._values
        return {
            field: values[field]
            for field in fields
            if values.get(field) is not None and self._domain in domains(field)
        }


def _line(column: str, name: str, choice: Choice | None, numbers: dict[str, Any]) -> Entry:
    return {
        "column": column,
        "choice": name,
        "equation": choice.equation if choice else "",
        "file": choice.file if choice else "",
        "settings": numbers,
    }
