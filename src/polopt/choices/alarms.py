"""Alarms: signs that a run goes wrong, each with a threshold, a meaning, and what to try.

How each one is found in the metrics of a run stands in ``polopt.diagnose.alarms.rules``, by the
name of the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polopt.choices.roles import reads_values
from polopt.choices.section import (
    EVERYWHERE,
    OF_LANGUAGE,
    Needs,
    NonNegative,
    OnlyFor,
    PositiveFloat,
    PositiveShare,
    Section,
    needs_some,
)

_SAMPLED = OnlyFor("prompts")
_EVALUATED = needs_some("evaluation.every", "a number of steps")
_CRITIC = Needs("credit.returns", reads_values, "a critic")

Name = Literal[
    "entropy",
    "held_out",
    "length",
    "repetition",
    "filler",
    "no_signal",
    "truncation",
    "kl",
    "gradient",
    "critic",
    "effective_sample",
    "mismatch",
    "overfitting",
    "hogging",
    "diversity",
]


@dataclass(frozen=True)
class Alarm:
    """What is said of an alarm that rings: the fact of its field."""

    title: str
    reads: tuple[str, ...]  # metrics
    says: str  # {value} and {threshold} are numbers in the unit of the threshold
    means: str  # one sentence
    remedy: str  # what to try, most likely cause first


class Alarms(Section):
    """Signs that a run goes wrong, looked for at every step ([alarms.md](alarms.md))."""

    facts: ClassVar[tuple[object, ...]] = (EVERYWHERE,)

    policy: Literal["warn", "stop", "roll_back"] = Field(
        default="warn",
        description="what an alarm does; stop: save and end the run; roll_back: go on once from "
        "the best checkpoint, then stop",
    )
    off: tuple[Name, ...] = Field(default=(), description="alarms that never ring", strict=False)
    entropy: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Entropy collapse",
            ("policy/entropy",),
            "entropy is {value} of what it was at the start (alarm below {threshold})",
            "the policy hardly draws anything but its first choice any more, and what it does not "
            "try it cannot learn",
            "a smaller update.learning_rate, objective.clip_high above clip_low, "
            "objective.entropy_coefficient, a larger group or temperature",
        ),
    ] = Field(default=0.1, description="share of the entropy of the start, while little is right")
    held_out: Annotated[
        PositiveFloat,
        _EVALUATED,
        Alarm(
            "Held-out figure falls",
            (
                "eval/accuracy",
                "eval/reward",
                "eval/return_mean",
                "eval/pair_accuracy",
                "eval/token_accuracy",
            ),
            "{what} has fallen {value} standard errors below its best (alarm above {threshold}) "
            "while training looks better",
            "what is optimised and what is wanted have parted: the reward is gamed, or its prompts "
            "are memorised",
            "the answers in the report, a reward that is harder to game, a larger kl.coefficient, "
            "checkpoints/best",
        ),
    ] = Field(
        default=3.0,
        description="standard errors by which a held-out figure falls while training improves",
    )
    length: Annotated[
        PositiveFloat,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Length creep",
            ("response/length",),
            "answers are {value} times as long as before (alarm above {threshold}), and no better",
            "answers grow and earn nothing by it: padding, or an aggregation that likes length",
            "objective.aggregation = token_mean or constant, credit.overlong_penalty, "
            "credit.length_reward, a smaller rollout.max_new_tokens",
        ),
    ] = Field(default=1.5, description="times that answers have grown without earning more")
    repetition: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Repetition",
            ("response/repetition",),
            "answers repeat {value} more of themselves than at the start (alarm above {threshold})",
            "the policy falls into loops: it went too far from its start, or is paid for it",
            "a smaller update.learning_rate, a larger kl.coefficient, a reward that does not pay "
            "for repetition",
        ),
    ] = Field(default=0.2, description="rise of the share of 4-grams that an answer has already")
    filler: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Filler",
            ("response/filler",),
            "{value} more of an answer than at the start is said whatever was asked (alarm above "
            "{threshold})",
            "answers fill up with text that has nothing to do with the question",
            "the answers in the report, a reward that does not pay for it, a larger kl.coefficient",
        ),
    ] = Field(
        default=0.3, description="rise of the share of an answer that most other answers have, too"
    )
    no_signal: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Groups without signal",
            ("degenerate_groups",),
            "{value} of the groups earned the same with every answer (alarm above {threshold})",
            "nearly all of the sampling teaches nothing: prompts are too hard, or too easy",
            "easier or harder prompts, rollout.resample_rounds, a larger rollout.group_size, a "
            "longer warm start",
        ),
    ] = Field(default=0.9, description="share of groups whose answers all earned the same")
    truncation: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Truncation",
            ("response/truncated",),
            "{value} of the answers are cut at the length limit (alarm above {threshold})",
            "the limit decides what an answer earns",
            "a larger rollout.max_new_tokens, credit.drop_truncated, credit.overlong_penalty; if "
            "answers never ended, a longer warm start",
        ),
    ] = Field(default=0.3, description="share of answers cut at rollout.max_new_tokens")
    kl: Annotated[
        PositiveFloat,
        _SAMPLED,
        OF_LANGUAGE,
        needs_some("kl.coefficient"),
        Alarm(
            "KL",
            ("kl/measured",),
            "the policy is {value} nats a token away from the reference (alarm above {threshold})",
            "it has left the texts that the reference knows, and with them what it could do",
            "a larger kl.coefficient, kl.controller with a kl.target, a smaller "
            "update.learning_rate",
        ),
    ] = Field(default=0.5, description="nats a token between policy and reference")
    gradient: Annotated[
        PositiveFloat,
        Alarm(
            "Gradient norm",
            (
                "policy/grad_norm",
                "reward_model/grad_norm",
            ),
            "the gradient is {value} times as long as before (alarm above {threshold})",
            "the update leaves the region in which its gradient means something",
            "a smaller update.learning_rate, update.warmup_steps, a smaller update.max_grad_norm, "
            "larger batches",
        ),
    ] = Field(default=10.0, description="times that the gradient has grown, before it is clipped")
    critic: Annotated[
        NonNegative,
        _CRITIC,
        Alarm(
            "Critic",
            ("value/explained_variance",),
            "the critic explains {value} of the returns (alarm below minus {threshold})",
            "advantages are worse with this critic than with none",
            "critic.warmup_steps, another critic.learning_rate, more critic.epochs, "
            "critic.clip off, normalised rewards",
        ),
    ] = Field(
        default=0.5, description="by how much the explained variance of the critic is below 0"
    )
    effective_sample: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Effective sample size",
            ("behaviour/ess",),
            "only {value} of the sample counts (alarm below {threshold})",
            "answers are too old, or come from other weights, for the policy that learns from them",
            "a smaller coordination.staleness, objective.correction, coordination.target_mismatch",
        ),
    ] = Field(default=0.5, description="share of the sample that counts for the policy that trains")
    mismatch: Annotated[
        PositiveFloat,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Engine against trainer",
            (
                "behaviour/kl",
                "lag/0/kl",
            ),
            "engine and trainer differ by {value} nats a token in answers of the newest weights "
            "(alarm above {threshold})",
            "the engine computes other probabilities than the trainer: weights that did not "
            "arrive, another precision, another template",
            "polopt check --selfcheck, model.dtype = float32, objective.correction",
        ),
    ] = Field(default=0.02, description="nats a token between engine and trainer, without any lag")
    overfitting: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        _EVALUATED,
        Alarm(
            "Over-fitting",
            ("eval/reward",),
            "{value} of what training prompts gained is not there on held-out ones (alarm above "
            "{threshold})",
            "the policy learns its prompts by heart",
            "more prompts, fewer steps, a larger kl.coefficient, checkpoints/best",
        ),
    ] = Field(
        default=0.7, description="share of the gain on training prompts that held-out ones lack"
    )
    hogging: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        _EVALUATED,
        Alarm(
            "Prompts that hog the gain",
            ("eval/reward",),
            "a tenth of the prompts holds {value} of the gain (alarm above {threshold}), and "
            "held-out ones gain nothing",
            "the reward rises by a few prompts alone, which says little of all others",
            "more and other prompts, rollout.resample_rounds, those prompts without the hardest "
            "and easiest",
        ),
    ] = Field(default=0.8, description="share of the gain that a tenth of the prompts holds")
    diversity: Annotated[
        PositiveShare,
        _SAMPLED,
        OF_LANGUAGE,
        Alarm(
            "Diversity",
            ("response/distinct",),
            "answers to one prompt differ {value} as much as at the start (alarm below "
            "{threshold})",
            "the answers of a group become one and the same while most of them are wrong",
            "a larger rollout.temperature, objective.entropy_coefficient, a larger kl.coefficient, "
            "a smaller update.learning_rate",
        ),
    ] = Field(
        default=0.3,
        description="share of the variety of the start that is left, while little is right",
    )
