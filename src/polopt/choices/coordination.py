"""When generation and training take turns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import Section


class Coordination(Section):
    """When generation and training take turns."""

    mode: Literal["alternate"] = Field(default="alternate", description="generate, then train")


COLUMN = Column(
    "coordination",
    None,
    {
        "alternate": Choice(
            "polopt.coordination.sources:InlineSource",
            "generate, then train: lag 0",
            elsewhere={
                "control": Variant(
                    "play, then train: lag 0", "polopt.rollout.episodes:EpisodeSource"
                )
            },
        ),
        "stepwise": Choice(
            "polopt.coordination.stepwise:StepwiseSource",
            "act and store until an optimiser step is due, then learn from what is stored",
        ),
        "offline": Choice(
            "polopt.coordination.offline:OfflineSource", "no generation", domains=OF_LANGUAGE
        ),
    },
)
