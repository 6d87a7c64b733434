"""Rollouts: sampled responses, environment steps, given data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    OF_NETWORKS,
    Count,
    Idle,
    OnlyFor,
    Positive,
    PositiveFloat,
    PositiveShare,
    Section,
    Share,
    Text,
    Values,
    by_row,
    needs_some,
    never,
)

_RESAMPLED = needs_some("rollout.resample_rounds")
_SAMPLED = OnlyFor("prompts")


def _has_network(values: Values) -> str | None:
    """Whether the stage starts from another one and so takes over its network."""
    if values["from"] is None:
        return None
    return f"no effect: the stage starts from the weights of {values['from']}; remove it"


def _plays_whole_episodes(values: Values) -> str | None:
    if not values["episodes.whole"]:
        return None
    return "no effect with episodes.whole = true; it needs false"


def _has_no_share(values: Values) -> str | None:
    """Whether vLLM generates nothing, or nowhere near the trainer."""
    if values["rollout.engine"] == "local":
        return 'no effect with rollout.engine = "local"; it needs auto or vllm'
    if (mode := values["coordination.mode"]) != "alternate":
        why = "engines have GPUs of their own"
        return f'no effect with coordination.mode = "{mode}": {why}; remove it'
    return None


class Network(Section):
    """The network of a policy in control, and of its critic."""

    facts: ClassVar[tuple[object, ...]] = (OF_NETWORKS, Idle(_has_network))

    hidden: tuple[Positive, ...] = Field(
        default=(64, 64), description="widths of its hidden layers", strict=False
    )
    activation: Annotated[Literal["tanh", "relu"] | None, by_row("tanh")] = Field(
        default=None, description="between the layers"
    )
    distribution: Literal["gaussian", "squashed"] = Field(
        default="gaussian",
        description="of continuous actions: clipped to their bounds, or squashed into them by tanh",
    )
    log_std: float = Field(
        default=-0.5, description="of continuous actions at first; it is learned"
    )


class Episodes(Section):
    """How a policy in control gathers experience."""

    facts: ClassVar[tuple[object, ...]] = (OF_NETWORKS,)

    environments: Annotated[Positive | None, by_row(16)] = Field(
        default=None, description="at once"
    )
    steps: Annotated[Positive | None, by_row(128), Idle(_plays_whole_episodes)] = Field(
        default=None, description="of each environment in a batch"
    )
    whole: Annotated[bool | None, by_row(False)] = Field(
        default=None, description="one whole episode of each environment instead"
    )
    normalise_observations: Annotated[bool, Idle(_has_network)] = Field(
        default=False, description="by the mean and the spread of all that was seen"
    )
    normalise_rewards: bool = Field(
        default=False, description="by the spread of discounted returns so far"
    )


class Rollout(Section):
    """How responses are sampled."""

    engine: Literal["auto", "local", "vllm"] = Field(
        default="auto",
        description="what samples: local is polopt's own; auto is vllm on a GPU where it is "
        "installed, in stages that train on what they sample, else local",
    )
    prompts_per_step: Annotated[Positive, _SAMPLED] = Field(
        default=16, description="prompts consumed in one step"
    )
    group_size: Annotated[Positive | None, by_row(8), _SAMPLED] = Field(
        default=None, description="responses to each prompt"
    )
    resample_rounds: Annotated[
        Count | None, by_row(0), _SAMPLED, never("resampled_groups", "no group was replaced")
    ] = Field(
        default=None,
        description="how often groups with equal rewards are replaced by new prompts",
    )
    accuracy_min: Annotated[Share | None, by_row(0.0), _SAMPLED, _RESAMPLED] = Field(
        default=None, description="groups with a smaller share of right answers are replaced too"
    )
    accuracy_max: Annotated[Share | None, by_row(1.0), _SAMPLED, _RESAMPLED] = Field(
        default=None, description="groups with a larger share of right answers are replaced too"
    )
    rows: Positive | None = Field(
        default=None, description="decoded together; default: as many as memory has room for"
    )
    vllm_memory: Annotated[PositiveFloat | None, Idle(_has_no_share)] = Field(
        default=None,
        description="GiB that vllm takes of the GPU that trains, while it generates; default: what "
        "weights and optimiser leave",
    )
    temperature: PositiveFloat = Field(default=1.0, description="logits are divided by it")
    top_p: PositiveShare = Field(
        default=1.0, description="nucleus; rows that train on samples need 1"
    )
    max_new_tokens: Positive = Field(default=48, description="longest response")
    min_new_tokens: Count = Field(
        default=0, description="no end of sequence before this many tokens"
    )
    stop: tuple[Text, ...] = Field(
        default=(), description="strings that end a response", strict=False
    )


COLUMN = Column(
    "rollout",
    None,
    {
        "groups": Choice(
            "polopt.rollout.groups:experience",
            "y₁ … y_G ~ π(· | x) for every prompt",
            domains=OF_LANGUAGE,
        ),
        "steps": Choice(
            "polopt.rollout.episodes:EpisodeSource",
            "aₜ ~ π(· | sₜ), rₜ and sₜ₊₁ of the environment, in all environments at once",
            reads=("episodes.environments", "episodes.whole", "episodes.steps"),
        ),
        "dataset": Choice(
            "polopt.rollout.dataset:demonstrated", "(x, y) as the data give it", domains=OF_LANGUAGE
        ),
        "replay": Choice(
            "polopt.rollout.replay:Replay",
            "(s, a, r, s′) of the newest steps, drawn at random",
            reads=(
                "episodes.environments",
                "replay.size",
                "replay.start_steps",
                "replay.updates_per_step",
                "episodes.steps",
            ),
        ),
        "rankings": Choice(
            "polopt.rollout.dataset:ranked",
            "(x, y₁ ≻ … ≻ y_K) as the data give it",
            domains=OF_LANGUAGE,
        ),
    },
    reads=("rollout.group_size", "rollout.prompts_per_step", "rollout.temperature"),
)
FILTER = Column(
    "filter",
    None,
    {
        "informative": Choice(
            "polopt.rollout.groups:informative",
            "0 < max r - min r and least ≤ share of right answers ≤ most, else another prompt",
            reads=("rollout.resample_rounds", "rollout.accuracy_min", "rollout.accuracy_max"),
            domains=OF_LANGUAGE,
        ),
    },
)
