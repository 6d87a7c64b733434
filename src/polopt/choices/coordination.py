"""When generation and training take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    Count,
    OnlyFor,
    Positive,
    PositiveFloat,
    Section,
    Values,
    by_row,
    needs,
)

_THREADS = needs("coordination.mode", "split", "buffered", "cluster")
_BUFFERED = needs("coordination.mode", "buffered", "cluster")
_CLUSTER = needs("coordination.mode", "cluster")
_SAMPLED = OnlyFor("prompts")


class Coordination(Section):
    """When generation and training take turns."""

    mode: Annotated[Literal["alternate", "split", "buffered", "cluster"], _SAMPLED] = Field(
        default="alternate",
        description="generate, then train; split: an engine of its own generates in a thread; "
        "buffered: several do, and go on while the policy trains; cluster: the same with engines "
        "and rewards in actors of Ray, on any number of nodes",
    )
    staleness: Annotated[Count, _THREADS, _SAMPLED] = Field(
        default=0,
        description="updates, at most, between the policy that a group of responses is begun with "
        "and the one that trains on it; 0: the same numbers as alternate; split: at most 1",
    )
    window: Annotated[Positive, _BUFFERED, _SAMPLED] = Field(
        default=1,
        description="groups, from the oldest that was not trained on, that a batch is taken from",
    )
    select: Annotated[Literal["fifo", "freshest", "priority"], _BUFFERED, _SAMPLED] = Field(
        default="fifo",
        description="order in the window; priority: spread of the rewards of a group, halved for "
        "every half_life updates of its age",
    )
    half_life: Annotated[
        PositiveFloat | None, by_row(1.0), needs("coordination.select", "priority"), _SAMPLED
    ] = Field(default=None, description="updates after which a group counts half as much")
    max_age: Annotated[Count | None, _BUFFERED, _SAMPLED] = Field(
        default=None, description="updates after which a group is given up; default: never"
    )
    engines: Annotated[Positive, _THREADS, _SAMPLED] = Field(
        default=1, description="that generate, each with weights of its own"
    )
    trainers: Annotated[Positive, _CLUSTER, _SAMPLED] = Field(
        default=1, description="processes that train together, each with a share of every batch"
    )
    patience: Annotated[PositiveFloat, _THREADS, _SAMPLED] = Field(
        default=1800.0, description="seconds without a single response after which the run gives up"
    )
    insecure: Annotated[bool, _CLUSTER, _SAMPLED] = Field(
        default=False, description="join a Ray of RAY_ADDRESS that lets in whoever can reach it"
    )
    dashboard: Annotated[bool, _CLUSTER, _SAMPLED] = Field(
        default=False, description="Ray's web page, on this machine alone; needs ray[default]"
    )


def anchored_in_sampling(values: Values) -> bool:
    """Whether ``log π_old`` is the log-prob of the policy that sampled.

    So it is in PPO without decoupling: with stale responses and no correction for them, the ratio
    to the policy that trains would be 1 at first, and would bound nothing.
    """
    return bool(values["coordination.staleness"]) and values["objective.correction"] in (
        None,
        "none",
    )


def _notes(values: Values) -> Iterator[str]:
    if values["coordination.staleness"] and anchored_in_sampling(values):
        yield (
            f"coordination.staleness = {values['coordination.staleness']} without "
            "objective.correction: pi_old is the policy that sampled, and the ratio is that to it"
        )


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
    notes=_notes,
)
