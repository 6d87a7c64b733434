"""A method as one row: its choice in each column, and the fields that it uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from polopt.choices.section import OnlyFor, Scalar
from polopt.recipe.fields import ALONE, domains, fact, row_decides

Requirement = Literal["prompts", "demonstrations", "pairs", "reward"]
_ALWAYS = frozenset({*ALONE, "model", "alarms"}) - {"rewards"}  # in every row


@dataclass(frozen=True)
class Place:
    """How a row is built in one domain, with its values there."""

    stage: str  # module:function that builds it
    rollout: str  # choice in the column of that name
    coordination: str
    values: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])  # of its own there


@dataclass(frozen=True, eq=False)  # one object a method
class Row:
    """One method. Its values decide every ``None`` of the recipe that it uses."""

    name: str
    summary: str  # one line
    source: str  # paper and equation
    requires: frozenset[Requirement]
    uses: frozenset[str]  # sections and dotted fields that have an effect
    places: Mapping[str, Place]  # by the name of the domain
    values: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])  # its own, everywhere
    idle: frozenset[str] = frozenset()  # fields of those sections that have no effect
    update: str = "adamw"
    roles: tuple[str, ...] = ("actor",)
    extra_losses: tuple[str, ...] = ()
    of_critic: frozenset[str] = frozenset()  # fields of a critic with a trunk of its own
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])  # columns without a field

    @property
    def file(self) -> str:
        """The file of the row, from the root of the repository."""
        return f"src/polopt/algorithms/{self.name}.py"

    @property
    def trains(self) -> str:
        """The role whose weights a stage of this row ends with: ``actor`` or ``reward_model``."""
        return self.roles[0]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the row; the first one is the default of descriptions."""
        return tuple(self.places)

    @property
    def published(self) -> tuple[int, str, str]:
        """Year and number of its paper, and its name: the order in which methods are listed."""
        number = re.search(r"arXiv:(\d\d)(\d\d\.\d+)", self.source)
        year = re.search(r"\b(?:19|20)\d\d\b", re.sub(r"arXiv:\S+", "", self.source))
        if year is None:
            assert number is not None, f"{self.name}: no year in {self.source!r}"
            return 2000 + int(number[1]), number[0], self.name
        return int(year[0]), number[0] if number else "", self.name

    def has(self, field: str) -> bool:
        """Whether the dotted field can have an effect in this row."""
        only_for, where = fact(field, OnlyFor), domains(field)
        if only_for is not None and only_for.requirement not in self.requires:
            return False
        if where and not set(where) & set(self.places):
            return False
        section = field.partition(".")[0]
        return not {field, section}.isdisjoint(self.uses | _ALWAYS) and field not in self.idle

    def defaults(self, domain: str = "") -> dict[str, Scalar]:
        """The defaults of the row in a domain, by dotted field; default: its first domain."""
        domain = domain or self.domains[0]
        of_field = {field: one.values for field, one in row_decides().items()}
        found: dict[str, Scalar] = {f: values[""] for f, values in of_field.items() if "" in values}
        found |= self.values
        found |= {f: values[domain] for f, values in of_field.items() if domain in values}
        if domain in self.places:
            found |= self.places[domain].values
        return {field: value for field, value in found.items() if self.has(field)}


_SAMPLED = frozenset(
    {
        "data",
        "rewards",
        "network",
        "episodes",
        "rollout",
        "credit",
        "objective",
        "kl",
        "critic",
        "process",
        "pretraining",
        "update",
        "coordination",
        "evaluation",
        "run",
    }
)
_NOT_SAMPLED = frozenset({"update.batch_size", "credit.select", "credit.threshold", "critic.tau"})


def policy_row(
    name: str,
    *,
    summary: str,
    source: str,
    values: Mapping[str, Scalar],
    control: Mapping[str, Scalar] | None = None,
    update: str = "adamw",
    uses: frozenset[str] = frozenset(),
    idle: frozenset[str] = frozenset(),
    of_critic: frozenset[str] = frozenset(),
) -> Row:
    """A row that samples: experience, credit, an objective, an update.

    Args:
        name: of its module.
        summary: in a line.
        source: paper and equation.
        values: its own, which stand before the defaults of the fields.
        control: what differs in control, for a row that serves it, too.
        update: choice in that column.
        uses: more sections than the others have.
        idle: fewer fields.
        of_critic: fields of a critic with a trunk of its own.
    """
    places = {"text": Place("polopt.assembly.text:policy_stage", "groups", "alternate")}
    if control is not None:
        stage = "polopt.assembly.control:control_stage"
        places["control"] = Place(stage, "steps", "alternate", control)
    return Row(
        name=name,
        summary=summary,
        source=source,
        requires=frozenset({"prompts", "reward"}),
        uses=_SAMPLED | uses,
        idle=_NOT_SAMPLED | idle,
        places=places,
        values=values,
        update=update,
        of_critic=of_critic,
    )


_REPLAYED = frozenset(
    {
        "data.source",
        "data.parameters",
        "network.hidden",
        "network.activation",
        "episodes.environments",
        "episodes.steps",
        "replay",
        "credit.gamma",
        "critic.learning_rate",
        "critic.tau",
        "update.learning_rate",
        "update.batch_size",
        "update.beta1",
        "update.beta2",
        "update.warmup_steps",
        "update.decay",
        "evaluation.every",
        "evaluation.episodes",
        "run",
    }
)


def replay_row(
    name: str,
    *,
    summary: str,
    source: str,
    stage: str,
    uses: frozenset[str],
    values: Mapping[str, Scalar],
    roles: tuple[str, ...],
    fixed: Mapping[str, str],
) -> Row:
    """A row of control that learns from a replay buffer.

    Args:
        name: of its module.
        summary: in a line.
        source: paper and equation.
        stage: module:function that builds it.
        uses: more sections than the others have.
        values: its own, which stand before the defaults of the fields.
        roles: its networks.
        fixed: its losses, for which no recipe has a choice.
    """
    own = {"network.activation": "relu", "episodes.environments": 1, "episodes.steps": 200}
    return Row(
        name=name,
        summary=summary,
        source=source,
        requires=frozenset(),
        uses=_REPLAYED | uses,
        places={"control": Place(stage, "replay", "stepwise", {**own, **values})},
        update="adam",
        roles=roles,
        fixed=fixed,
    )
