"""Data that crosses a boundary: frozen dataclasses, each field documented once.

Shapes: B responses, T response columns (prompt tokens are never in T), P prompt columns.
Three policies, never two: the behaviour policy sampled the data (``logp_rollout``), the proximal
one anchors the ratio (``logp_old``), the current one is being trained (``logp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Record = TypeVar("Record")
Metrics = dict[str, float]
RowIndex = torch.Tensor | slice  # some of the rows; slice(None): all, without a copy


def cut(record: Record, index: RowIndex) -> Record:
    """The record with every field that has rows cut to those; single numbers stay as they are.

    ``dataclasses.replace`` would take longer than an optimiser step of a small network.
    """
    taken = object.__new__(type(record))
    values = vars(taken)
    for name, value in vars(record).items():
        if isinstance(value, torch.Tensor):
            values[name] = value[index] if value.ndim else value
        else:
            values[name] = value.rows(index) if hasattr(value, "rows") else value
    return taken


class Finish(StrEnum):
    """Why a response ended. Aborted and failed responses are never trained on."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"
    ERROR = "error"


class Outcome(StrEnum):
    """What became of scoring one response. An infrastructure error is never a reward of 0."""

    OK = "ok"
    WRONG = "wrong"
    SCORED = "scored"  # a number, without a verdict on whether the response is right
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    UNSCORABLE = "unscorable"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True)
class Prompt:
    """One prompt of a data source.

    Example: ``Prompt(7, "3+8-9=", (20, 25, ...), {"prompt": "3+8-9=", "answer": "2"})``
    """

    id: int  # place in the endless stream (training) or in the fixed list (evaluation)
    text: str
    tokens: tuple[int, ...]
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])  # every column of the row
    keys: tuple[str, ...] = ()  # prompts that share one are the same (``data.identity``)
    messages: tuple[Mapping[str, str], ...] = ()  # what the text was rendered from; () of text


@dataclass(frozen=True)
class Sampling:
    """The distribution that was sampled; needed to recompute the same one."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Which policy version produced ``tokens[start:end]``; stamped where the token is sampled."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Sample:
    """One sequence: a prompt and a response, token in, token out."""

    tokens: NDArray[np.int64]  # [P + T] prompt and response; text is never re-tokenised
    mask: NDArray[np.bool_]  # [P + T] True where the policy produced the token
    logp_rollout: NDArray[np.float32]  # [P + T] behaviour log-prob; NaN where mask is False
    prompt_length: int
    spans: tuple[Span, ...] = ()
    finish: Finish = Finish.STOP
    sampling: Sampling = field(default_factory=Sampling)
    reward: float = float("nan")  # NaN: could not be scored
    parts: Mapping[str, float] = field(default_factory=dict[str, float])  # each reward by name
    outcome: Outcome = Outcome.UNSCORABLE
    token_rewards: NDArray[np.float32] | None = (
        None  # [P + T] of which reward is the sum; NaN: none
    )


@dataclass(frozen=True)
class Group:
    """The responses to one prompt; advantages are a property of a group."""

    ticket: int  # place in the prompt stream; seeds the sampling and orders the batch
    prompt: Prompt
    samples: tuple[Sample, ...]
    greedy: Sample | None = None  # most likely response: a baseline, never trained on


@dataclass(frozen=True)
class Batch:
    """The groups that the learners are trained on together."""

    groups: tuple[Group, ...]  # sorted by ticket
    taken_at: int  # policy version at take
    reused: frozenset[int] = frozenset()  # tickets of those that were trained on before

    @property
    def fresh(self) -> Batch:
        """The groups that were not trained on before."""
        if not self.reused:
            return self
        return Batch(tuple(g for g in self.groups if g.ticket not in self.reused), self.taken_at)


@dataclass(frozen=True)
class TokenRows:
    """A batch as tensors for a forward pass: prompts left-padded, responses right-padded."""

    tokens: torch.Tensor  # [B, P + T] int64
    attention: torch.Tensor  # [B, P + T] bool, True at real tokens
    prompt_width: int  # P; response column t is token column P + t
    temperature: float = 1.0  # of the sampler: logits are divided by it in every pass
    min_new_tokens: int = 0  # of the sampler: no end of sequence before this column

    @property
    def shape(self) -> tuple[int, int]:
        """B and P + T."""
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def width(self) -> int:
        """T, the response columns."""
        return self.tokens.shape[1] - self.prompt_width

    def rows(self, index: RowIndex) -> TokenRows:
        """The same for some of the rows."""
        return cut(self, index)


@dataclass(frozen=True)
class StepRows:
    """Observations and actions of a policy in control."""

    observations: torch.Tensor  # [B, T, O]
    actions: torch.Tensor  # [B, T] int64, or [B, T, D]

    @property
    def shape(self) -> tuple[int, int]:
        """B and T."""
        return self.observations.shape[0], self.observations.shape[1]

    def rows(self, index: RowIndex) -> StepRows:
        """The same for some of the rows."""
        return cut(self, index)


@dataclass(frozen=True)
class Transitions:
    """Steps from a replay buffer, one per row: s, a, s′, r, and 1 where s′ is terminal."""

    table: torch.Tensor  # [B, O + D + O + 2]
    observation_size: int  # O
    action_size: int  # D

    @property
    def observations(self) -> torch.Tensor:
        """The states s [B, O]."""
        return self.table[:, : self.observation_size]

    @property
    def actions(self) -> torch.Tensor:
        """A [B, D], each number between -1 and 1."""
        return self.table[:, self.observation_size :][:, : self.action_size]

    @property
    def successors(self) -> torch.Tensor:
        """S′ [B, O], the true one, also where an episode ended."""
        return self.table[:, self.observation_size + self.action_size : -2]

    @property
    def rewards(self) -> torch.Tensor:
        """The rewards r [B]."""
        return self.table[:, -2]

    @property
    def terminated(self) -> torch.Tensor:
        """Whether s′ is terminal, [B] bool; False at a time limit."""
        return self.table[:, -1] != 0


@dataclass(frozen=True)
class Recorded:
    """The rows of a batch that the record of the run shows, where rows are cut and shuffled."""

    slot: torch.Tensor  # [B] int64, place among those rows; ``count`` for all others
    count: int

    def rows(self, index: RowIndex) -> Recorded:
        """The same for some of the rows."""
        return cut(self, index)


@dataclass(frozen=True)
class Noted:
    """What an update made of the tokens of the recorded rows; on the host."""

    advantages: NDArray[np.float64]  # [R, T]; NaN where a token took no part
    sides: NDArray[np.int64] | None  # [R, T] of the bound (``objective.SIDES``); None: no bound


@dataclass(frozen=True)
class Experience:
    """One batch as tensors for credit and losses. A field never changes meaning.

    Values where ``mask`` is False are never read and may be NaN (rule R1).
    """

    mask: torch.Tensor  # [B, T] bool, True where the policy produced the token
    group: torch.Tensor  # [B] int64, prompt identity; rows of a group need not be adjacent
    rewards: torch.Tensor  # [B] of whole responses; NaN: none could be given
    logp_rollout: torch.Tensor | None = None  # [B, T] of the sampler
    lag: torch.Tensor | None = None  # [B, T] int64, updates between sampling and training
    logp_old: torch.Tensor | None = None  # [B, T] trainer weights at the start of the update
    logp_ref: torch.Tensor | None = None  # [B, T] of the reference
    logp: torch.Tensor | None = None  # [B, T] before the optimiser step; where a loss needs it
    values: torch.Tensor | None = None  # [B, T] V(s_t), state before token t; or Q(s_t, y_t)
    last_values: torch.Tensor | None = None  # [B] V after the last token; None = 0
    greedy_rewards: torch.Tensor | None = None  # [B] reward of the greedy response to the prompt
    right: torch.Tensor | None = None  # [B] 1: the answer is right, 0: wrong; NaN: not judged
    token_rewards: torch.Tensor | None = None  # [B, T] their sum is rewards; NaN: none there
    process: torch.Tensor | None = None  # [B, T] q, token rewards of a process reward model
    truncated: torch.Tensor | None = None  # [B] bool, cut by the length limit
    step_rewards: torch.Tensor | None = None  # [B, T] of each step, in control
    next_values: torch.Tensor | None = None  # [B, T] V of the true successor of each step
    terminated: torch.Tensor | None = None  # [B, T] bool, the successor is terminal
    cut: torch.Tensor | None = None  # [B, T] bool, the trace ends; bootstrap there
    parts: Mapping[str, torch.Tensor] = field(
        default_factory=dict[str, torch.Tensor]
    )  # [B] each reward by name, unweighted; NaN where it does not apply
    tokens: TokenRows | None = None  # for the actors; the mathematics never reads it
    steps: StepRows | None = None  # the same in control
    transitions: Transitions | None = None  # of methods with a replay buffer
    recorded: Recorded | None = None  # which of the rows the record of the run shows

    @property
    def inputs(self) -> TokenRows | StepRows:
        """The inputs of a forward pass of a role."""
        given = self.tokens if self.steps is None else self.steps
        assert given is not None, "an experience to learn from"
        return given

    def rows(self, index: RowIndex) -> Experience:
        """The same for some of the rows."""
        taken = cut(self, index)
        vars(taken)["parts"] = {name: part[index] for name, part in self.parts.items()}
        return taken


@dataclass(frozen=True)
class Advantages:
    """Advantages, and the tokens and rows that take part in the loss. All of it is detached."""

    advantages: torch.Tensor  # [B, T], 0 outside mask
    mask: torch.Tensor  # [B, T] bool, tokens that enter the loss and its divisors
    valid: torch.Tensor  # [B] bool, False: row left the denominators (R4, R5, R7)
    value_targets: torch.Tensor | None = None  # [B, T] for a critic, never normalised
    rewards: torch.Tensor | None = None  # [B] shaped; NaN: the row takes no part
    metrics: Metrics = field(default_factory=dict[str, float])

    def rows(self, index: RowIndex) -> Advantages:
        """The same for some of the rows; the metrics stay those of the whole."""
        return cut(self, index)
