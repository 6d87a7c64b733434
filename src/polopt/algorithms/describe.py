"""Rows and resolved stages as plain tables: for people, config.json and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polopt.algorithms.bodies import CHOICES as ON_BODIES
from polopt.algorithms.bodies import OF_BODIES, about, is_on_bodies
from polopt.algorithms.choices import CHOICES, FIELDS, SCORE_FUNCTION, Choice
from polopt.algorithms.effects import flat, idle, reads_process, reads_values
from polopt.algorithms.index import INDEX, row
from polopt.algorithms.row import Row
from polopt.recipe import StageRecipe, load

Entry = dict[str, Any]
QUIET = (None, "none", "fixed")  # choices that do nothing
STEPS = {"objective.aggregation": "token_mean"}  # there is no other
COLUMNS_OF_CREDIT = ("returns", "baseline", "normalisation")
_NUMBERS = {
    "replay": (
        "episodes.environments",
        "replay.size",
        "replay.start_steps",
        "replay.updates_per_step",
    ),
    "target": ("credit.gamma",),
    "temperature": (
        "temperature.initial",
        "temperature.target_entropy",
        "temperature.learning_rate",
    ),
    "action_critic": ("critic.learning_rate",),
    "twin_critics": ("critic.learning_rate",),
    "target_networks": ("critic.tau",),
    "rollout": (
        "episodes.environments",
        "episodes.whole",
        "episodes.steps",
        "rollout.group_size",
        "rollout.prompts_per_step",
        "rollout.temperature",
    ),
    "overlong": ("credit.overlong_penalty", "credit.overlong_buffer"),
    "length": ("credit.length_reward",),
    "filter": ("rollout.resample_rounds", "rollout.accuracy_min", "rollout.accuracy_max"),
    "kl_penalty": ("objective.penalty_target",),
    "lagged_reference": ("kl.refresh_every", "kl.refresh_rate"),
    "ema": ("credit.baseline_decay",),
    "preference": ("preference.length_normalise", "preference.centre"),
    "kl": ("kl.coefficient",),
    "aggregation": ("objective.aggregation_length",),
    "update": ("update.learning_rate", "update.epochs", "update.minibatches", "update.batch_size"),
    "pretraining": ("pretraining.source", "pretraining.coefficient", "pretraining.batch_size"),
    "critic": (
        "critic.trunk",
        "critic.learning_rate",
        "critic.epochs",
        "critic.minibatches",
        "critic.clip",
        "critic.coefficient",
    ),
    "natural_step": (
        "trust_region.delta",
        "trust_region.damping",
        "trust_region.backtrack",
        "trust_region.line_search_steps",
        "trust_region.cg_iterations",
        "trust_region.fisher_share",
    ),
    "process_reward": (
        "process.beta",
        "process.learning_rate",
        "process.update",
    ),
    "extra_losses": ("objective.entropy_coefficient",),
}  # shown beside the choice; the other columns name theirs as arguments


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
    on_bodies = is_on_bodies(stage.data.source)
    return _entries(row(stage.algorithm), settings(stage), on_bodies=on_bodies)


def describe_row(name: str, *, on_bodies: bool = False) -> list[Entry]:
    """The same for a row with its defaults, on text or on bodies."""
    one = row(name)
    return _entries(one, _defaults(one, on_bodies=on_bodies), on_bodies=on_bodies)


def differences(name: str) -> list[Entry]:
    """What is another on bodies than on text in a row that is for both, line by line."""
    on_text = {(entry["column"], entry["choice"]): entry for entry in describe_row(name)}
    return [
        entry
        for entry in describe_row(name, on_bodies=True)
        if on_text.get((entry["column"], entry["choice"])) != entry
    ]


def table() -> list[Entry]:
    """All rows, one object each: what stands in every column, and the file."""
    return [_summary(row(name)) for name in INDEX]


def _summary(one: Row) -> Entry:
    entries = _entries(one, _defaults(one))
    cells = {entry["column"]: entry["choice"] for entry in entries}
    cells |= {
        "roles": _roles(one, one.defaults),
        "extra_losses": _extra_losses(one, one.defaults),
    }
    return {"name": one.name, **cells, "file": one.file, "summary": one.summary}


def _defaults(one: Row, *, on_bodies: bool = False) -> dict[str, Any]:
    """Those defaults of a row that have an effect beside each other."""
    body = on_bodies or "body" in one.requires
    defaults = {**one.defaults, **((one.on_bodies or {}) if on_bodies else {})}
    stated = {
        "model": {"path": "builtin:mlp" if body else "builtin:tiny"},
        "data": {"source": "control:pendulum" if body else "task:chain_sum"},
    }
    values = flat(load({"algorithm": one.name, **stated}).stages[0]) | defaults
    return {f: v for f, v in defaults.items() if idle(one, values, f) is None}


def _entries(one: Row, values: Mapping[str, Any], *, on_bodies: bool = False) -> list[Entry]:
    """Every column, in order; on bodies a step is in the place of a token."""
    if on_bodies and one.is_for_both:
        steps = replace(one, rollout="steps")
        return [_on_bodies(entry) for entry in _entries(steps, {**values, **STEPS})]
    roles = _roles(one, values)
    again = bool(values.get("rollout.resample_rounds"))
    extra = _extra_losses(one, values)
    return [
        _entry("rollout", one.rollout, values),
        *_any(values, "exploration"),
        *(_entry(column, name, values) for column, name in one.fixed.items()),
        *_any(values, "temperature"),
        *([_entry("filter", "informative", values)] if again else []),
        *(_entry("shaping", name, values) for name in _shapers(values)),
        *_any(values, "spread"),
        *(_entry(name, _chosen(name, values), values) for name in COLUMNS_OF_CREDIT),
        *_any(values, "select"),
        _entry("ratio", _chosen("ratio", values), values),
        _bound(values),
        *_any(values, "mask", "correction", "preference"),
        _kl(values),
        *_any(values, "controller"),
        _entry("aggregation", _chosen("aggregation", values), values),
        _entry("update", one.update, values),
        *(_entry("roles", name, values) for name in roles),
        *(_entry("extra_losses", name, values) for name in extra or [None]),
        _entry("coordination", one.coordination, values),
    ]


def _on_bodies(entry: Entry) -> Entry:
    """The line with the function that the choice has there, and without what has no effect."""
    column, name = entry["column"], entry["choice"]
    own = ON_BODIES.get(column, {}).get(name)
    kept = {field: v for field, v in entry["settings"].items() if about(field, OF_BODIES)}
    entry = entry | {"settings": kept}
    return entry if own is None else entry | {"equation": own.equation, "file": own.file}


def _shapers(values: Mapping[str, Any]) -> list[str]:
    called = {"overlong": "credit.overlong_penalty", "length": "credit.length_reward"}
    return [name for name, field in called.items() if values.get(field)]


def _roles(one: Row, values: Mapping[str, Any]) -> list[str]:
    """The row's own, and those that its settings call for."""
    compared = bool(values.get("kl.coefficient")) or reads_process(values)
    follows = bool(values.get("kl.refresh_every"))
    called = {
        "critic": reads_values(values),
        "reward_model": any(reward.get("model") for reward in values.get("rewards", ())),
        "process_reward": reads_process(values),
        "reference": compared and not follows,
        "lagged_reference": compared and follows,
    }
    return [*one.roles, *(name for name, wanted in called.items() if wanted)]


def _extra_losses(one: Row, values: Mapping[str, Any]) -> list[str]:
    called = {
        "value": reads_values(values),
        "outcome_labels": reads_process(values),
        "entropy": bool(values.get("objective.entropy_coefficient")),
        "pretraining": bool(values.get("pretraining.source")),
    }
    return [*one.extra_losses, *(name for name, wanted in called.items() if wanted)]


def _chosen(column: str, values: Mapping[str, Any]) -> str | None:
    return values.get(FIELDS[column])


def _entry(column: str, name: str | None, values: Mapping[str, Any]) -> Entry:
    """One line; ``None``: the row has no such column."""
    if name is None:
        return _line(column, "none", None, {})
    choice = CHOICES[column][name]
    fields = (
        *(choice.arguments or {}).values(),
        *_NUMBERS.get(column, ()),
        *_NUMBERS.get(name, ()),
    )
    return _line(column, name, choice, _given(values, fields))


def _any(values: Mapping[str, Any], *columns: str) -> list[Entry]:
    """Lines of columns that are mentioned only where something is chosen in them."""
    names = {column: _chosen(column, values) for column in columns}
    return [_entry(c, name, values) for c, name in names.items() if name not in QUIET]


def _bound(values: Mapping[str, Any]) -> Entry:
    if values.get("objective.ratio") == "none":
        return _line("bound", "none", SCORE_FUNCTION, {})
    return _entry("bound", _chosen("bound", values), values)


def _kl(values: Mapping[str, Any]) -> Entry:
    if not values.get("kl.coefficient"):
        return _line("kl", "none", None, {})
    estimator, placement = values["kl.estimator"], values["kl.placement"]
    choice = CHOICES["estimator"][estimator]
    where = CHOICES["placement"][placement].equation
    numbers, name = _given(values, _NUMBERS["kl"]), f"{estimator} in {placement}"
    if placement == "loss" and values.get("kl.importance_corrected"):
        where, name = where.replace("β k", "β ρₜ k"), f"ρ {name}"
    equation = f"{where}, {choice.equation}"
    return {**_line("kl", name, choice, numbers), "equation": equation}


def _given(values: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: values[field] for field in fields if values.get(field) is not None}


def _line(column: str, name: str, choice: Choice | None, numbers: dict[str, Any]) -> Entry:
    return {
        "column": column,
        "choice": name,
        "equation": choice.equation if choice else "",
        "file": choice.file if choice else "",
        "settings": numbers,
    }
