"""How responses are compared, by rows that learn from pairs or rankings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import NonNegative, PositiveFloat, Section, by_row

_LOSS, _MATH = "polopt.objective.preference:", "polopt.math.preference:"
_BETA = {"beta": "preference.beta"}


class Preference(Section):
    """How responses are compared, by rows that learn from pairs or rankings."""

    loss: Annotated[
        Literal["sigmoid", "hinge", "ipo", "plackett_luce"] | None, by_row("sigmoid")
    ] = Field(
        default=None, description="of a pair by its difference in score, or of a whole ranking"
    )
    beta: Annotated[PositiveFloat | None, by_row()] = Field(
        default=None, description="the score is multiplied by it; of dpo the strength of the KL"
    )
    label_smoothing: Annotated[Annotated[float, Field(ge=0, lt=0.5)] | None, by_row(0.0)] = Field(
        default=None, description="sigmoid: probability that a label is wrong"
    )
    margin: Annotated[NonNegative | None, by_row(0.0)] = Field(
        default=None, description="sigmoid: by which the better response has to win"
    )
    length_normalise: Annotated[bool | None, by_row(False)] = Field(
        default=None, description="dpo: log-ratios are averaged over tokens, not summed"
    )
    centre: Annotated[NonNegative | None, by_row(0.0)] = Field(
        default=None,
        description="reward_model: weight of the squared sum of a pair's scores, which holds "
        "them around 0",
    )


COLUMN = Column(
    "preference",
    "preference.loss",
    {
        "sigmoid": Choice(
            _LOSS + "sigmoid",
            "ℓ = -(1-ε) log σ(β h - m) - ε log σ(-β h - m), mean over the pairs of a prompt",
            _MATH + "dpo_loss",
            {
                **_BETA,
                "label_smoothing": "preference.label_smoothing",
                "margin": "preference.margin",
            },
            factory=True,
            domains=OF_LANGUAGE,
        ),
        "hinge": Choice(
            _LOSS + "hinge",
            "ℓ = max(0, 1 - β h), mean over the pairs of a prompt",
            _MATH + "hinge_loss",
            _BETA,
            factory=True,
            domains=OF_LANGUAGE,
        ),
        "ipo": Choice(
            _LOSS + "ipo",
            "ℓ = (h - 1/(2β))², mean over the pairs of a prompt",
            _MATH + "ipo_loss",
            _BETA,
            factory=True,
            domains=OF_LANGUAGE,
        ),
        "plackett_luce": Choice(
            _LOSS + "plackett_luce",
            "ℓ = -Σᵢ log(e^{β sᵢ} / (e^{β sᵢ} + Σ_{j worse} e^{β sⱼ}))",
            _MATH + "plackett_luce_loss",
            _BETA,
            factory=True,
            domains=OF_LANGUAGE,
        ),
    },
    reads=("preference.length_normalise", "preference.centre"),
)
