"""A stage of a run as a frozen set of callables; rows build it, the loop runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from polopt.coordination.sources import RolloutSource
from polopt.rollout.evaluation import Evaluation
from polopt.rollout.timeline import Timeline
from polopt.types import Advantages, Experience, Metrics

Measured = Mapping[str, float | Tensor]
"""Metrics of one batch; those that are tensors are read when the step is recorded."""


class Learner(Protocol):
    """A consumer of batches with state: a policy, a critic, statistics, a buffer."""

    name: str

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Measured:
        """Update on one batch; ``step`` steps of the stage were recorded before it."""
        ...

    def save(self, directory: Path) -> dict[str, int]:
        """Write tensors into the directory; return counters."""
        ...

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        ...


@dataclass(frozen=True)
class Until:
    """Ends a stage when an evaluation metric reaches a value."""

    metric: str
    at_least: float


@dataclass(frozen=True)
class Stage:
    """One stage: its choices are callables, its lengths are numbers."""

    name: str
    algorithm: str
    steps: int
    source: RolloutSource[Any]
    prepare: Callable[[Any], Experience]  # tensors, with the outputs of the roles
    credit: Callable[[Experience], Advantages]
    learners: Sequence[Learner]
    save_model: Callable[[Path], None]  # in Hugging Face layout
    evaluate: Callable[[bool], Evaluation] | None  # argument: greedy responses as well
    describe: Callable[[Any], tuple[Metrics, Sequence[Mapping[str, Any]]]]  # metrics, samples
    held_out: Sequence[tuple[str, ...]] = ()  # keys of each prompt that it is evaluated on
    asked: Callable[[Any], Sequence[str]] = lambda _: ()  # keys of the prompts of a batch
    earned: Callable[[Any], Mapping[str, float]] = lambda _: {}  # by the first key of each of them
    introduced: Callable[[Any], Mapping[str, str]] = lambda _: {}  # how new ones begin, by that key
    # To the metrics of a step, which it adds to; what it changes is in force from the next one.
    react: Callable[[Metrics], Metrics] = lambda _: {}
    batches_per_step: int = 1  # consumed in one recorded step, whose metrics are means
    evaluate_every: int = 0  # 0: only before and after
    checkpoint_every: int = 1
    until: Until | None = None
    best: str | None = None  # metric of evaluation that the best checkpoint goes by
    is_last: bool = True  # of the run; its best weights are kept
    timeline: Timeline | None = None  # of who generates, scores and trains; None: nobody samples


@dataclass(frozen=True)
class Event:
    """An event for observers, such as the start of a stage, metrics or a warning."""

    kind: str  # "stage" | "prompts" | "metrics" | "message" | "warning" | "alarm" | "summary"
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Request:
    """A request to end after the step: by a signal, or by an alarm and its policy."""

    signal: int = 0  # its number; 0: none
    alarm: str = ""  # its name
    roll_back: bool = False  # go on from the best checkpoint instead, where there is one


Observer = Callable[[Event], None]
