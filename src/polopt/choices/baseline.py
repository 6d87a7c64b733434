"""The baseline, subtracted from the return."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Takes, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import EVERYWHERE, BelowOne, Section, by_row

_OUTCOME, _MATH = "polopt.credit.outcome:", "polopt.math.baselines:"
# The field that a moving baseline replaces.
_MOVING = {"value": "credit.baseline_constant"}


class Baseline(Section):
    """Fields of the baseline."""

    baseline: Annotated[
        Literal[
            "none",
            "constant",
            "ema",
            "running_mean",
            "group_mean",
            "leave_one_out",
            "length_weighted",
            "greedy",
            "value",
            "action",
        ]
        | None,
        by_row(),
        EVERYWHERE,
    ] = Field(default=None, description="what is subtracted from the return")
    baseline_constant: Annotated[float | None, by_row(), EVERYWHERE] = Field(
        default=None, description="value of the constant baseline"
    )
    baseline_decay: Annotated[BelowOne | None, by_row(0.9), EVERYWHERE] = Field(
        default=None, description="ema: what is left of the baseline after each batch"
    )


_PLAIN = "whose correction holds for plain log-probs and returns"

COLUMN = Column(
    "baseline",
    "credit.baseline",
    {
        "none": Choice(_OUTCOME + "no_baseline", "b = 0"),
        "constant": Choice(_OUTCOME + "constant", "b = c", arguments=_MOVING, factory=True),
        "ema": Choice(
            _OUTCOME + "constant",
            "b, then b ← α b + (1 - α) r̄ of the batch",
            _MATH + "ema_update",
            factory=True,
            reads=("credit.baseline_decay",),
            follows=_MOVING,
            elsewhere={
                "control": Variant("b, then b ← α b + (1 - α) Ψ̄ of the batch"),
            },
        ),
        "running_mean": Choice(
            _OUTCOME + "constant",
            "b = mean of all rewards of earlier batches",
            _MATH + "running_mean_update",
            factory=True,
            follows=_MOVING,
            elsewhere={
                "control": Variant("b = mean of Ψ over all steps of earlier batches"),
            },
        ),
        "group_mean": Choice(
            _OUTCOME + "group_mean",
            "b = r̄ of the group",
            _MATH + "group_mean",
            traits=frozenset({"compares"}),
            domains=OF_LANGUAGE,
        ),
        "leave_one_out": Choice(
            _OUTCOME + "leave_one_out",
            "bᵢ = Σ_{j≠i} rⱼ / (K-1)",
            _MATH + "leave_one_out",
            traits=frozenset({"compares"}),
            domains=OF_LANGUAGE,
        ),
        "length_weighted": Choice(
            _OUTCOME + "length_weighted",
            "b = Σⱼ lⱼ rⱼ / Σⱼ lⱼ",
            _MATH + "length_weighted",
            traits=frozenset({"compares"}),
            domains=OF_LANGUAGE,
        ),
        "greedy": Choice(
            _OUTCOME + "greedy", "b = r of the most likely response", domains=OF_LANGUAGE
        ),
        "value": Choice(_OUTCOME + "value", "b = V(sₜ)", roles=("critic",), losses=("value",)),
        "action": Choice(
            _OUTCOME + "action",
            "b = Q(sₜ, aₜ), and L ← L - Σ_a π(a) Q(sₜ, a), without which it is biased",
            _MATH + "action_correction",
            takes=(
                Takes("objective.ratio", ("none",), _PLAIN),
                Takes("credit.normalisation", ("none",), _PLAIN),
            ),
            roles=("critic",),
            losses=("value",),
        ),
    },
)
WITH_CRITIC = tuple(name for name, one in COLUMN.choices.items() if "critic" in one.roles)
SAME_FOR_ALL = ("constant", "ema", "running_mean")  # vanish where the mean is taken away
