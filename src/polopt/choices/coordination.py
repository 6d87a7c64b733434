"""When generation and training take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    BelowOne,
    Count,
    Needs,
    OnlyFor,
    Positive,
    PositiveFloat,
    Section,
    Values,
    by_row,
    needs,
    needs_some,
    never,
)
from polopt.choices.update import optimiser_steps

_THREADS = needs("coordination.mode", "split", "buffered", "cluster")
_BUFFERED = needs("coordination.mode", "buffered", "cluster")
_CLUSTER = needs("coordination.mode", "cluster")
_SAMPLED = OnlyFor("prompts")
_WEIGHED = Needs(
    "coordination.select",
    lambda v: v["coordination.select"] == "priority" or bool(v["coordination.reuse"]),
    "priority, or coordination.reuse",
)

_DIVIDED = Needs(
    "rollout.engine",
    lambda v: v["rollout.engine"] == "vllm" and v["coordination.mode"] == "cluster",
    'vllm, with coordination.mode = "cluster"',
)


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
    half_life: Annotated[PositiveFloat | None, by_row(1.0), _WEIGHED, _SAMPLED] = Field(
        default=None, description="updates after which a group counts half as much"
    )
    max_age: Annotated[
        Count | None, _BUFFERED, _SAMPLED, never("groups/stale", "no group was given up")
    ] = Field(default=None, description="updates after which a group is given up; default: never")
    max_lag_steps: Annotated[Count | None, _THREADS, _SAMPLED] = Field(
        default=None,
        description="optimiser steps, at most, between sampling and training, where an update has "
        "several; a recipe that allows more is refused; default: any",
    )
    reuse: Annotated[BelowOne, _BUFFERED, _SAMPLED] = Field(
        default=0.0,
        description="share of a batch that was trained on before, drawn by the size of its "
        "advantages, halved for every half_life updates of its age; 0: none",
    )
    reuse_age: Annotated[Positive | None, by_row(4), needs_some("coordination.reuse"), _SAMPLED] = (
        Field(default=None, description="updates after which a group is not used again")
    )
    target_mismatch: Annotated[
        PositiveFloat | None,
        _BUFFERED,
        _SAMPLED,
        never("controller/actions", "what was measured never called for an action"),
    ] = Field(
        default=None,
        description="k3 between the policy and the one that sampled, in nats a token, above which "
        "window, staleness and learning rate are lowered; default: they stay as they are",
    )
    engines: Annotated[Positive, _THREADS, _SAMPLED] = Field(
        default=1, description="that generate, each with weights of its own"
    )
    engine_devices: Annotated[Positive, _DIVIDED, _SAMPLED] = Field(
        default=1,
        description="that each engine is divided over (tensor parallel), on one node",
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


def stale(values: Values) -> bool:
    """Whether responses may be of an older policy than the one that trains."""
    return bool(values["coordination.staleness"] or values["coordination.reuse"])


def reused_groups(values: Values) -> int:
    """Groups of a batch that were trained on before, at most."""
    return round(values["coordination.reuse"] * values["rollout.prompts_per_step"])


def lag_at_most(values: Values) -> int:
    """The largest lag of a token that is trained on, in updates of the policy.

    ``(F(S + 1) + W - 2) // F`` for F new groups a batch, less where older ones are given up, and
    more where groups are used again. With S = 0 a batch takes all groups that there are.
    """
    fresh = values["rollout.prompts_per_step"] - reused_groups(values)
    staleness, window = values["coordination.staleness"], values["coordination.window"]
    lag = (fresh * (staleness + 1) + window - 2) // fresh if staleness else 0
    if values["coordination.max_age"] is not None:
        lag = min(lag, values["coordination.max_age"])
    return max(lag, values["coordination.reuse_age"]) if values["coordination.reuse"] else lag


def lag_steps_at_most(values: Values) -> int:
    """The same in optimiser steps."""
    return lag_at_most(values) * optimiser_steps(values)


def anchored_in_sampling(values: Values) -> bool:
    """Whether ``log π_old`` is the log-prob of the policy that sampled.

    So it is in PPO without decoupling: with stale responses and no correction for them, the ratio
    to the policy that trains would be 1 at first, and would bound nothing.
    """
    return stale(values) and values["objective.correction"] in (None, "none")


def _notes(values: Values) -> Iterator[str]:
    if anchored_in_sampling(values):
        name = "staleness" if values["coordination.staleness"] else "reuse"
        yield (
            f"coordination.{name} = {values[f'coordination.{name}']} without "
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
