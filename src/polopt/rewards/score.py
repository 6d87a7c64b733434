"""The rewards of a batch: a weighted sum for each completion, its parts and its outcome.

A failure is never a reward of 0: by ``on_error`` it stops the run or leaves the completion without
a reward.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polopt.errors import RewardError
from polopt.rewards.arguments import Declared, declared, offered, wanted
from polopt.rewards.call import Raised, Returned, call, told
from polopt.rewards.values import Problem, Steps, token_values, values
from polopt.types import Outcome, Prompt

Result = float | Steps | None | Problem


@dataclass(frozen=True)
class RewardSpec:
    """One reward and how to treat it."""

    name: str  # in metrics and messages
    function: Callable[..., Any]  # called by name with what its signature asks for
    weight: float = 1.0  # factor in the sum
    timeout: float | None = 60.0  # seconds for one batch; None: polopt's own, called directly
    on_error: Literal["stop", "unscorable"] = "stop"  # a failure: stop the run, or reward is NaN
    per_token: bool = False  # a list of numbers for each completion, one for each of its tokens
    is_accuracy: bool = False  # whether 1.0 and more mean a right answer; booleans do anyway

    @functools.cached_property
    def declared(self) -> Declared:
        """What the function asks for."""
        return declared(self.name, self.function)


@dataclass(frozen=True)
class Scored:
    """The reward of one completion."""

    reward: float  # Σ weight·part over the parts that apply; NaN: could not be scored
    parts: dict[str, float]  # by name; absent: did not apply, NaN: failed
    outcome: Outcome
    token_rewards: tuple[float, ...] | None = None  # NaN: no reward there; None: response level


def score(
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    specs: Sequence[RewardSpec],
    seed: int,
) -> list[Scored]:
    """Score a batch of completions; prompt i belongs to completion i.

    A function is called once for the batch, by keyword, with copies of those of ``prompts`` (text),
    ``completions`` (text), ``completion_ids`` (tokens) and the data columns that its signature
    declares; it returns one number or None (does not apply) for each completion, or with
    ``per_token`` a list of them, one for each token, None where no step ends. See ``call`` for
    timeouts and random numbers.

    The reward is Σ weight·part over the parts that apply, NaN where none applies or one failed; the
    part of a reward per token is the sum of its steps. A part of weight 0 is only recorded: it
    changes neither reward nor failure. ``token_rewards`` places the reward: steps at their tokens,
    everything else at the last one.

    The outcome of a failure: ``error`` for an exception, or values of the wrong type or number;
    ``timeout``; ``memory``; ``unscorable`` for a number that is not finite or where no part
    applies. Otherwise the first reward that applies and can tell decides: one that returned a
    boolean, or one that ``is_accuracy``, as verifiers are: ``ok`` from 1.0 upwards, else ``wrong``.
    ``scored`` where none can tell.

    Args:
        prompts: of the completions, with their data columns.
        completions: text.
        completion_ids: tokens.
        specs: the rewards; names differ.
        seed: of the global generators during each call, so that a function that draws from them
            gives the same rewards in the same place of the same run.

    Raises:
        RewardError: a function asks for a column that is not there, or fails with ``on_error``
            "stop"; one line with function, row and reason.
    """
    if not len(prompts) == len(completions) == len(completion_ids):
        raise ValueError("prompts, completions and completion_ids differ in length")
    if not completions:
        return []
    batch = offered(prompts, completions, completion_ids)
    found = {spec.name: _results(spec, batch, len(completions), seed) for spec in specs}
    return [
        _scored(specs, {name: results[row] for name, results in found.items()}, len(ids))
        for row, ids in enumerate(completion_ids)
    ]


def _scored(specs: Sequence[RewardSpec], results: Mapping[str, Result], length: int) -> Scored:
    parts = {name: _part(result) for name, result in results.items() if result is not None}
    counted = [spec for spec in specs if spec.weight and spec.name in parts]
    for spec in counted:
        if isinstance(problem := results[spec.name], Problem):
            return Scored(float("nan"), parts, problem.outcome)
    if not counted:
        return Scored(float("nan"), parts, Outcome.UNSCORABLE)
    reward = sum(spec.weight * parts[spec.name] for spec in counted)
    return Scored(reward, parts, _verdict(specs, results), _placed(specs, results, length))


def _verdict(specs: Sequence[RewardSpec], results: Mapping[str, Result]) -> Outcome:
    """By the first reward that applies and can tell right from wrong."""
    for spec in specs:
        result = results[spec.name]
        if isinstance(result, float | bool) and (spec.is_accuracy or isinstance(result, bool)):
            return Outcome.OK if result >= 1 else Outcome.WRONG
    return Outcome.SCORED


def _part(result: float | Steps | Problem) -> float:
    if isinstance(result, Problem):
        return float("nan")
    return result.total if isinstance(result, Steps) else float(result)


def _placed(
    specs: Sequence[RewardSpec], results: Mapping[str, Result], length: int
) -> tuple[float, ...] | None:
    """The reward token by token; None where all rewards are of whole responses."""
    if not any(spec.per_token for spec in specs):
        return None
    placed = np.full(length, np.nan)
    for spec in specs:
        if spec.weight:
            numbers = spec.weight * _by_token(results[spec.name], length)
            both = np.where(np.isnan(placed), 0.0, placed) + numbers
            placed = np.where(np.isnan(numbers), placed, both)
    return tuple(placed.tolist())


def _by_token(result: Result, length: int) -> NDArray[np.float64]:
    """One result as numbers [T]: the reward of a whole response at the last token, else NaN."""
    numbers = np.full(length, np.nan)
    if isinstance(result, Steps):
        numbers[:] = result.numbers
    elif isinstance(result, float | bool):
        numbers[-1:] = result
    return numbers


def _results(
    spec: RewardSpec, batch: Mapping[str, list[Any]], count: int, seed: int
) -> list[Result]:
    """The results of one reward function, one for each completion."""
    asked = wanted(spec.name, spec.declared, batch)
    if spec.timeout is None:
        answer = Returned(spec.function(**asked))
    else:
        answer = call(spec.function, asked, spec.timeout, seed)
    if isinstance(answer, Raised):
        found = Problem(_outcome(answer), _told(spec.function, answer))
    else:
        lengths = [len(ids) for ids in batch["completion_ids"]]
        found = (
            token_values(answer.value, lengths) if spec.per_token else values(answer.value, count)
        )
    results: list[Result] = [found] * count if isinstance(found, Problem) else [*found]
    if spec.on_error == "unscorable":
        return results
    for row, result in enumerate(results):
        if isinstance(result, Problem) and result.stops:
            raised = answer.error if isinstance(answer, Raised) and not answer.late else None
            alone = row if result is not found else _culprit(spec, batch, count, seed, raised)
            where = f"row {alone}" if alone is not None else f"rows 0 to {count - 1} together"
            raise RewardError(f"reward {spec.name!r}: {where}: {result.text}") from raised
    return results


def _culprit(
    spec: RewardSpec,
    batch: Mapping[str, list[Any]],
    count: int,
    seed: int,
    raised: BaseException | None,
) -> int | None:
    """The first row that raises the same type of error when scored alone, for the message."""
    if count == 1:
        return 0
    deadline = time.monotonic() + (spec.timeout or math.inf)
    for row in range(count if raised is not None else 0):
        alone = {name: [items[row]] for name, items in batch.items()}
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        answer = call(spec.function, wanted(spec.name, spec.declared, alone), left, seed)
        if isinstance(answer, Raised):
            return row if type(answer.error) is type(raised) and not answer.late else None
    return None


def _outcome(answer: Raised) -> Outcome:
    if answer.late:
        return Outcome.TIMEOUT
    return Outcome.MEMORY if isinstance(answer.error, MemoryError) else Outcome.ERROR


def _told(function: Callable[..., Any], answer: Raised) -> str:
    """The exception on one line, with the last line of the function's own file in its traceback."""
    if answer.late:
        return str(answer.error)
    text = "raised " + told(answer.error)
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(answer.error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    return f"{text} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else text
