"""Rewards for sampled groups: the verifier of the task, the user's functions, or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.text import TextTask
from polopt.errors import RecipeError
from polopt.isolated.origins import module_of, origin_of
from polopt.recipe import Recipe, Reward, StageRecipe
from polopt.recipe.contradictions import reward_name
from polopt.rewards import (
    Completions,
    RewardSpec,
    Scored,
    from_file,
    from_mathematics,
    from_verifier,
    score,
)
from polopt.rollout.text import TextSource
from polopt.seeding import derive
from polopt.types import Group, Sample

RewardFunction = Callable[..., Any]
Judge = Callable[[Sequence[Group]], list[Group]]


def specs(
    stage: StageRecipe,
    task: TextTask | None,
    given: RewardFunction | None = None,
    models: Mapping[str, RewardFunction] | None = None,
) -> list[RewardSpec]:
    """The rewards of a stage.

    Args:
        stage: resolved.
        task: of the data source; its verifier is ``verifier = "task"``, and the default.
        given: a function from Python, which takes the place of the recipe's rewards.
        models: the functions of the reward models among them, by name of the reward.

    Raises:
        RecipeError: the data have no verifier of their own and no reward is named.
        RewardError: a reward file that cannot be used.
    """
    if given is not None:
        return [RewardSpec(_name(given), given, origin=origin_of(given))]
    if not stage.rewards:
        return [] if task is None else [_of_task(task)]
    return [_spec(reward, task, stage.data.source, models or {}) for reward in stage.rewards]


def load_files(recipe: Recipe) -> None:
    """Import every reward file at the start of a run, so that errors come before any stage.

    Raises:
        RewardError: a reward file that cannot be used.
    """
    _loaded.cache_clear()  # a file may have been edited since the last run of this process
    module_of.cache_clear()
    for stage in recipe.stages:
        for reward in stage.rewards:
            if reward.file is not None and reward.function is not None:
                _loaded(reward.file, reward.function)


def functions(
    stage: StageRecipe, given: RewardFunction | None = None
) -> Mapping[str, RewardFunction]:
    """The functions among the rewards of a stage that a user wrote, by name of the reward."""
    if given is not None:
        return {_name(given): given}
    return {
        reward_name(reward): _loaded(reward.file, reward.function).function
        for reward in stage.rewards
        if reward.file is not None and reward.function is not None
    }


_loaded = lru_cache(maxsize=None)(from_file)


def judge(source: TextSource, rewards: Sequence[RewardSpec], seed: int) -> Judge:
    """The function that fills in reward, parts and outcome of every sample.

    Random numbers of a reward go by the ticket, so a group has the same rewards in any company. It
    may be called from several threads at once.
    """
    tokenizer = source.tokeniser.tokenizer

    def completions(group: Group) -> Completions:
        ids = [sample.tokens[sample.prompt_length :].tolist() for sample in group.samples]
        return Completions(
            prompts=[group.prompt] * len(ids),
            texts=tokenizer.batch_decode(ids, skip_special_tokens=True),
            ids=ids,
            seed=derive(seed, "reward", group.ticket),
        )

    def judged(groups: Sequence[Group]) -> list[Group]:
        if not rewards:
            return list(groups)
        scored = iter(score([completions(group) for group in groups], rewards))
        return [
            replace(group, samples=tuple(map(_filled, group.samples, scored))) for group in groups
        ]

    return judged


def _filled(sample: Sample, scored: Scored) -> Sample:
    return replace(
        sample,
        reward=scored.reward,
        parts=scored.parts,
        outcome=scored.outcome,
        token_rewards=_aligned(sample, scored.token_rewards),
    )


def _aligned(sample: Sample, rewards: Sequence[float] | None) -> NDArray[np.float32] | None:
    """Rewards of a response beside the tokens of prompt and response."""
    if rewards is None:
        return None
    return np.array([math.nan] * sample.prompt_length + [*rewards], dtype=np.float32)


def text_of(source: TextSource) -> Callable[[Sample], str]:
    """The response of a sample as text, without special tokens."""
    tokenizer = source.tokeniser.tokenizer

    def text(sample: Sample) -> str:
        response = sample.tokens[sample.prompt_length :].tolist()
        return str(tokenizer.decode(response, skip_special_tokens=True))

    return text


def _spec(
    reward: Reward, task: TextTask | None, source: str, models: Mapping[str, RewardFunction]
) -> RewardSpec:
    name = reward_name(reward)
    if reward.model is not None:
        function = models[name]
        return RewardSpec(name, function, reward.weight, None, reward.on_error, reward.per_token)
    if reward.verifier is not None:
        return _verifier(reward, task, source)
    assert reward.file is not None and reward.function is not None, "checked by the schema"
    loaded = _loaded(reward.file, reward.function)
    return RewardSpec(
        name,
        loaded.function,
        reward.weight,
        reward.timeout,
        reward.on_error,
        reward.per_token,
        is_accuracy=reward.is_accuracy,
        origin=loaded.origin,
    )


def _verifier(reward: Reward, task: TextTask | None, source: str) -> RewardSpec:
    """A verifier keeps its time limits itself, answer by answer."""
    if reward.compared_with is not None:
        function = from_mathematics(reward.compared_with, reward.timeout)
        name = reward_name(reward)
        return RewardSpec(name, function, reward.weight, timeout=None, is_accuracy=True)
    if task is None:
        raise RecipeError(
            f"reward.verifier: {source!r} brings no verifier; math, or a file and a function"
        )
    spec = _of_task(task, reward.timeout)
    return replace(spec, name=reward.name or task.name, weight=reward.weight)


def _of_task(task: TextTask, timeout: float = 60.0) -> RewardSpec:
    verify = from_verifier(task.score, timeout)
    return RewardSpec(task.name, verify, timeout=None, is_accuracy=task.is_accuracy)


def _name(function: RewardFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)
