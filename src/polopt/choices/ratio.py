"""The level of the importance ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import EVERYWHERE, Section, Values, by_row

_OBJECTIVE, _MATH = "polopt.objective.policy_gradient:", "polopt.math.ratios:"


class Ratio(Section):
    """Fields of the ratio."""

    ratio: Annotated[
        Literal["none", "token", "sequence_sum", "sequence_mean"] | None, by_row(), EVERYWHERE
    ] = Field(default=None, description="level of the importance ratio")


def _notes(values: Values) -> Iterator[str]:
    """One ratio for all tokens of a response makes each of them as long as the response."""
    chosen = values["objective.ratio"], values["objective.aggregation"]
    if chosen == ("sequence_mean", "seq_mean_token_sum"):
        yield (
            "objective.aggregation = seq_mean_token_sum multiplies a response by its length: all "
            "of its tokens share the ratio (LUSPO does so; seq_mean_token_mean is GSPO)"
        )


COLUMN = Column(
    "ratio",
    "objective.ratio",
    {
        "none": Choice(
            _OBJECTIVE + "NONE",
            "log π itself",
            _MATH + "no_log_ratio",
            replaces={"bound": Choice("polopt.math.surrogates:score_function", "ℓ = -A log π")},
        ),
        "token": Choice(_OBJECTIVE + "TOKEN", "ρₜ = π / π_old", _MATH + "token_log_ratio"),
        "sequence_sum": Choice(
            _OBJECTIVE + "SEQUENCE_SUM",
            "ρ = Πₜ ρₜ",
            _MATH + "sequence_sum_log_ratio",
            domains=OF_LANGUAGE,
        ),
        "sequence_mean": Choice(
            _OBJECTIVE + "SEQUENCE_MEAN",
            "s = exp(1/n Σₜ log ρₜ)",
            _MATH + "sequence_mean_log_ratio",
            domains=OF_LANGUAGE,
        ),
    },
    notes=_notes,
)
LEVELS = tuple(name for name in COLUMN.choices if name != "none")
