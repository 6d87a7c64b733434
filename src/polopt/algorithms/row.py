"""A method as one row of choices: what stands in each column, and which fields have a say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from polopt.recipe import Scalar

Requirement = Literal["prompts", "demonstrations", "pairs", "reward", "body"]
ALWAYS = frozenset({"algorithm", "from", "until", "model"})  # in every row
ONLY_FOR: Mapping[str, Requirement] = {  # without it a field has no effect
    "data.chosen_field": "pairs",
    "data.rejected_field": "pairs",
    "data.completions_field": "pairs",
    "data.ranks_field": "pairs",
}


@dataclass(frozen=True)
class Row:
    """One method. ``defaults`` decides every ``None`` of the recipe that the row uses."""

    name: str
    summary: str  # one line
    source: str  # paper and equation
    requires: frozenset[Requirement]
    uses: frozenset[str]  # sections and dotted fields that have an effect
    idle: frozenset[str]  # fields of those sections that have none
    defaults: Mapping[str, Scalar]  # dotted field: value
    rollout: str  # choice in the column of that name, and so on
    coordination: str
    update: str = "adamw"
    roles: tuple[str, ...] = ("actor",)
    extra_losses: tuple[str, ...] = ()
    of_critic: frozenset[str] = frozenset()  # fields that only a critic of its own listens to
    always: frozenset[str] = frozenset()  # fields that have an effect whatever the others say
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])  # columns without a field
    on_bodies: Mapping[str, Scalar] | None = None  # what differs there; None: it is for text alone

    @property
    def file(self) -> str:
        """Where the row stands, from the root of the repository."""
        return f"src/polopt/algorithms/{self.name}.py"

    @property
    def is_for_both(self) -> bool:
        """Whether there are text and bodies to choose from."""
        return self.on_bodies is not None and "body" not in self.requires

    @property
    def trains(self) -> str:
        """The role whose weights a stage of this row ends with: ``actor`` or ``reward_model``."""
        return self.roles[0]

    def has(self, field: str) -> bool:
        """Whether the dotted field can have an effect in this row."""
        if field in ONLY_FOR and ONLY_FOR[field] not in self.requires:
            return False
        section = field.partition(".")[0]
        return not {field, section}.isdisjoint(self.uses | ALWAYS) and field not in self.idle
