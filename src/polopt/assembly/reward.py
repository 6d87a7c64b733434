"""Reward models of a stage: what the recipe names, loaded, and the reward functions they give."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.assembly.inputs import StageInputs
from polopt.errors import ModelError
from polopt.models import LanguageModel
from polopt.ranks import ALONE
from polopt.recipe import Reward
from polopt.recipe.contradictions import reward_name, rewards_by_field
from polopt.roles import Critic, reward_of, step_ends, step_rewards_of
from polopt.rollout.rewarding import RewardFunction


@dataclass(frozen=True)
class RewardModel:
    """A reward of the recipe that a reward model computes."""

    name: str
    settings: Reward
    role: Critic

    def function(self, device: torch.device) -> RewardFunction:
        """The rewards of responses, or of their steps, one batch of them at a time.

        Threads that generate share the model, and a pass says in its settings how it attends.
        """
        score, one = self._function(device), threading.Lock()

        def scored(**given: Any) -> Any:  # noqa: ANN401
            with one:
                return score(**given)

        return wraps(score)(scored)

    def _function(self, device: torch.device) -> RewardFunction:
        tokenizer, separator = self.role.scalar_model.tokenizer, self.settings.step_separator
        pad_id = cast(int, tokenizer.pad_token_id)
        # Ranks score groups of their own: no pass is divided.
        role = replace(self.role, how=replace(self.role.how, ranks=ALONE))
        if not self.settings.per_token:
            return reward_of(role, pad_id=pad_id, device=device)

        def ends(ids: Sequence[int] | NDArray[np.int64]) -> list[bool]:
            return step_ends([str(tokenizer.decode([int(token)])) for token in ids], separator)

        return step_rewards_of(role, pad_id=pad_id, device=device, ends=ends)


def reward_models(inputs: StageInputs, policy: LanguageModel) -> tuple[RewardModel, ...]:
    """The reward models of a stage; one that is never refreshed is frozen.

    Raises:
        ModelError: a model that cannot be loaded, has too small a vocabulary or context, or
            has a head of zeros that is never trained.
    """
    named = () if inputs.reward is not None else rewards_by_field(inputs.recipe)
    return tuple(_loaded(inputs, policy, where, reward) for where, reward in named if reward.model)


def _loaded(inputs: StageInputs, policy: LanguageModel, where: str, reward: Reward) -> RewardModel:
    assert reward.model is not None
    model = inputs.reader(f"{where}.model", reward.model, policy)
    if not reward.refresh_every:
        if not model.head.weight.any():
            raise ModelError(
                f"{where}.model: {reward.model!r} has no head of its own, so that every response "
                "would earn 0; a model that stage reward_model has trained, or refresh_every"
            )
        inputs.froze(model.model)
    return RewardModel(reward_name(reward), reward, Critic(model, inputs.computing))
