"""The normalisation of the advantage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Takes, Trait, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import EVERYWHERE, NonNegative, Section, Values, by_row

_OUTCOME, _MATH = "polopt.credit.outcome:", "polopt.math.normalise:"
_SCALED = _OUTCOME + "scaled"  # calls a function of polopt.math.normalise
_SPREAD = {"ddof": "credit.ddof", "eps": "credit.epsilon"}


class Normalisation(Section):
    """Fields of the normalisation."""

    normalisation: Annotated[
        Literal["none", "group_std", "group_mean", "group_steps", "batch_std", "batch_z"] | None,
        by_row(),
        EVERYWHERE,
    ] = Field(default=None, description="what the advantage is divided by")
    # Papers do not give it; 1 is what implementations have inside a group.
    ddof: Annotated[Annotated[int, Field(ge=0, le=1)] | None, by_row(1), EVERYWHERE] = Field(
        default=None, description="1: sample standard deviation, 0: population"
    )
    epsilon: Annotated[NonNegative | None, by_row(1e-6), EVERYWHERE] = Field(
        default=None, description="added to the standard deviation"
    )


_CENTRED = (
    Takes("credit.baseline", ("group_mean",), "which divides what is centred on the group"),
    Takes("credit.returns", ("outcome",), "which compares whole responses"),
)
_COMPARES: frozenset[Trait] = frozenset({"compares"})


def _notes(values: Values) -> Iterator[str]:
    rewards, chosen = values["rewards"], values["credit.normalisation"]
    weighted = len(rewards) == 1 and rewards[0].weight not in (0, 1)
    if chosen in ("group_std", "batch_std") and weighted and values["kl.placement"] != "reward":
        yield (
            "reward.weight has no effect beyond its sign: credit.normalisation = "
            f"{chosen} divides by the spread of the rewards"
        )
    if chosen == "group_std" and values["rollout.group_size"] == 2:
        yield (
            "rollout.group_size = 2: with group_std the two advantages are the same two numbers "
            "whatever the rewards, unless they are equal"
        )


COLUMN = Column(
    "normalisation",
    "credit.normalisation",
    {
        "none": Choice(_OUTCOME + "unchanged", "A = Ψ - b"),
        "group_std": Choice(
            _MATH + "group_std",
            "A = (r - r̄) / (σ of the group + ε)",
            arguments=_SPREAD,
            adapter=_SCALED,
            takes=_CENTRED,
            traits=_COMPARES,
            domains=OF_LANGUAGE,
        ),
        "group_mean": Choice(
            _MATH + "group_mean_divide",
            "A = (r - r̄) / (r̄ + ε)",
            arguments={"eps": "credit.epsilon"},
            adapter=_SCALED,
            takes=_CENTRED,
            traits=_COMPARES,
            domains=OF_LANGUAGE,
        ),
        "group_steps": Choice(
            _OUTCOME + "group_steps",
            "A = Σ_{s≥t} γ^{s-t} (rₛ - r̄) / (σ + ε), r̄ and σ of all step rewards of the group",
            _MATH + "group_steps",
            {**_SPREAD, "gamma": "credit.gamma"},
            factory=True,
            takes=(
                _CENTRED[0],
                Takes("credit.returns", ("reward_to_go",), "which adds up the steps after a token"),
            ),
            traits=_COMPARES,
            domains=OF_LANGUAGE,
        ),
        "batch_std": Choice(
            _MATH + "batch_std",
            "A = (r - r̄) / (σ of the batch + ε)",
            arguments=_SPREAD,
            adapter=_SCALED,
            takes=_CENTRED,
            traits=_COMPARES,
            domains=OF_LANGUAGE,
        ),
        "batch_z": Choice(
            _OUTCOME + "batch_z",
            "A = (Ψ - b - μ) / √(σ² + ε) over the tokens of the batch",
            _MATH + "whiten",
            _SPREAD,
            factory=True,
            traits=frozenset({"centres"}),
            elsewhere={
                "control": Variant("A = (Ψ - b - μ) / √(σ² + ε) over the steps of the batch")
            },
        ),
    },
    notes=_notes,
)
