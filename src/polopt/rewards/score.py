"""The rewards of a batch: a weighted sum for each completion, its parts and its outcome.

A failure is never a reward of 0: by ``on_error`` it stops the run or leaves the completion without
a reward.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polopt.errors import RewardError
from polopt.isolated import workers
from polopt.isolated.calls import Raised, Returned, plain
from polopt.isolated.origins import Origin
from polopt.rewards.arguments import Declared, declared, offered, wanted
from polopt.rewards.call import call
from polopt.rewards.values import Problem, Steps, token_values, values
from polopt.types import Outcome, Prompt

Result = float | Steps | None | Problem


@dataclass(frozen=True)
class RewardSpec:
    """One reward and how to treat it."""

    name: str  # in metrics and messages
    function: Callable[..., Any]  # called by name with what its signature asks for
    weight: float = 1.0  # factor in the sum
    timeout: float | None = 60.0  # seconds for one call; None: polopt's own, called directly
    on_error: Literal["stop", "unscorable"] = "stop"  # a failure: stop the run, or reward is NaN
    per_token: bool = False  # a list of numbers for each completion, one for each of its tokens
    is_accuracy: bool = False  # whether 1.0 and more mean a right answer; booleans do anyway
    origin: Origin | None = None  # where a worker process finds the function; None: it runs here

    @property
    def in_trainer(self) -> bool:
        """Whether a user's function runs in this process, where nothing may run beside it."""
        return self.timeout is not None and self.origin is None

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


@dataclass(frozen=True)
class Completions:
    """What a user's function gets in one call: the completions of one ticket."""

    prompts: Sequence[Prompt]  # prompt i belongs to completion i
    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    seed: int  # of the global generators during the call


def score(groups: Sequence[Completions], specs: Sequence[RewardSpec]) -> list[Scored]:
    """Score the completions of groups, in their order.

    A user's function is called once for each group, in worker processes for several groups at once:
    its rewards do not depend on what is scored together. polopt's own, verifiers and reward models,
    are called once for all groups. A function is called by keyword, with copies of those of
    ``prompts`` and ``completions`` (text), ``prompt_ids`` and ``completion_ids`` (tokens) and the
    data columns that its signature declares; it returns one number or None (does not apply) for
    each completion, or with ``per_token`` a list of them, one for each token, None where no step
    ends. See :func:`polopt.isolated.workers.call` for timeouts and random numbers.

    The reward is Σ weight·part over the parts that apply, NaN where none applies or one failed; the
    part of a reward per token is the sum of its steps. A part of weight 0 is only recorded: it
    changes neither reward nor failure. ``token_rewards`` places the reward: steps at their tokens,
    everything else at the last one.

    The outcome of a failure: ``error`` for an exception, a process that died, or values of the
    wrong type or number; ``timeout``; ``memory``; ``unscorable`` for a number that is not finite or
    where no part applies. Otherwise the first reward that applies and can tell decides: one that
    returned a boolean, or one that ``is_accuracy``, as verifiers are: ``ok`` from 1.0 upwards, else
    ``wrong``. ``scored`` where none can tell.

    Args:
        groups: with different seeds, so that a function that draws gives each its own.
        specs: the rewards; names differ.

    Raises:
        RewardError: a function asks for a column that is not there, cannot be loaded, or fails with
            ``on_error`` "stop"; one line with function, row and reason.
    """
    for group in groups:
        if not len(group.prompts) == len(group.texts) == len(group.ids):
            raise ValueError("prompts, completions and completion_ids differ in length")
    groups = [group for group in groups if group.texts]
    if not groups:
        return []
    found = {spec.name: _results(spec, groups) for spec in specs}
    return [
        _scored(specs, {name: results[row] for name, results in found.items()}, len(ids))
        for row, ids in enumerate(ids for group in groups for ids in group.ids)
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


def _results(spec: RewardSpec, groups: Sequence[Completions]) -> list[Result]:
    """The results of one reward, one for each completion."""
    if spec.timeout is None:
        groups = [_together(groups)]
    firsts = accumulate((len(group.texts) for group in groups[:-1]), initial=0)
    of_group = functools.partial(_of_group, spec)
    apart = map if spec.origin is None else _side_by_side
    return [*chain.from_iterable(apart(of_group, groups, firsts))]


def _together(groups: Sequence[Completions]) -> Completions:
    return Completions(
        prompts=[prompt for group in groups for prompt in group.prompts],
        texts=[text for group in groups for text in group.texts],
        ids=[ids for group in groups for ids in group.ids],
        seed=groups[0].seed,
    )


def _side_by_side(
    of_group: Callable[[Completions, int], list[Result]],
    groups: Sequence[Completions],
    firsts: Iterable[int],
) -> list[list[Result]]:
    """As ``map``, in threads that wait for worker processes."""
    with ThreadPoolExecutor(min(workers.most(), len(groups))) as threads:
        try:
            return list(threads.map(of_group, groups, firsts))
        except BaseException:
            workers.stop()  # the run ends: nobody waits for the others
            raise


def _of_group(spec: RewardSpec, group: Completions, first: int) -> list[Result]:
    """The results of one call; ``first`` is the row of its first completion, for messages."""
    batch, count = offered(group.prompts, group.texts, group.ids), len(group.texts)
    answer = _answer(spec, batch, spec.timeout, group.seed)
    if isinstance(answer, Raised):
        found = Problem(_outcome(answer), answer.text)
    elif spec.per_token:
        found = token_values(answer.value, [len(ids) for ids in group.ids])
    else:
        found = values(answer.value, count)
    results: list[Result] = [found] * count if isinstance(found, Problem) else [*found]
    if spec.on_error == "unscorable":
        return results
    for row, result in enumerate(results):
        if isinstance(result, Problem) and result.stops:
            raised = answer if isinstance(answer, Raised) and not answer.late else None
            alone = row if result is not found else _culprit(spec, batch, count, group.seed, raised)
            where = f"rows {first} to {first + count - 1} together"
            where = where if alone is None else f"row {first + alone}"
            error = None if raised is None else raised.error
            raise RewardError(f"reward {spec.name!r}: {where}: {result.text}") from error
    return results


def _answer(
    spec: RewardSpec, batch: Mapping[str, list[Any]], timeout: float | None, seed: int
) -> Returned | Raised:
    """Call the function where it belongs.

    Raises:
        RewardError: an argument that is not there, or a function that a worker cannot load.
    """
    asked = wanted(spec.name, spec.declared, batch)
    if timeout is None:
        return Returned(plain(spec.function(**asked), keep=Problem))
    if spec.origin is None:
        return call(spec.function, asked, timeout, seed)
    try:
        return workers.call(spec.origin, asked, timeout, seed)
    except workers.UnloadableError as error:
        raise RewardError(
            f"reward {spec.name!r}: cannot be loaded in a worker process: {error}"
        ) from error


def _culprit(
    spec: RewardSpec,
    batch: Mapping[str, list[Any]],
    count: int,
    seed: int,
    raised: Raised | None,
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
        answer = _answer(spec, alone, left, seed)
        if isinstance(answer, Raised):
            same = raised is not None and answer.kind == raised.kind and not answer.late
            return row if same else None
    return None


def _outcome(answer: Raised) -> Outcome:
    if answer.late:
        return Outcome.TIMEOUT
    return Outcome.MEMORY if answer.memory else Outcome.ERROR
