"""Checks of a method and of trained models against the environments and data of a stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polopt.algorithms import row
from polopt.envs.control.interface import Action, Box, Environments
from polopt.errors import ModelError, RecipeError, counted
from polopt.models import LanguageModel, ScalarModel, context_length
from polopt.models.network import Specification
from polopt.recipe import StageRecipe
from polopt.recipe.schema import Network


@dataclass(frozen=True)
class Shape:
    """The observation space and the action space."""

    observations: int
    actions: int  # number of discrete actions, or size of a continuous one
    low: tuple[float, ...] = ()  # of a continuous action
    high: tuple[float, ...] = ()

    def __str__(self) -> str:
        """In words."""
        numbers = f"actions of {counted(self.actions, 'number')}"
        done = numbers if self.low else f"{self.actions} actions to choose from"
        return f"{self.observations} observations and {done}"


def shape(environments: Environments) -> Shape:
    """The spaces of environments."""
    action = environments.action
    if not isinstance(action, Box):
        return Shape(environments.observation_size, action.count)
    low, high = tuple(action.low.tolist()), tuple(action.high.tolist())
    return Shape(environments.observation_size, len(low), low, high)


def shape_of_policy(made_of: Specification) -> Shape:
    """The spaces of a policy."""
    return Shape(made_of.observation_size, made_of.outputs, made_of.low, made_of.high)


def check_fits(trained: Shape, here: Shape, source: str, of: str) -> None:
    """Refuse environments of another shape.

    Args:
        trained: spaces of the policy.
        here: spaces of the environments of the recipe.
        source: the data source that names them.
        of: where the policy comes from, for the message.

    Raises:
        RecipeError: names both shapes.
    """
    if str(here) != str(trained):
        raise RecipeError(
            f"data.source: {source} has {here}; the policy of {of} was trained on {trained}"
        )
    those = np.array([here.low, here.high], dtype=np.float32)
    these = np.array([trained.low, trained.high], dtype=np.float32)
    for number in (those != these).any(0).nonzero()[0][:1]:
        (a, b), (c, d) = those[:, number], these[:, number]
        raise RecipeError(
            f"data.source: {source} has actions whose number {number} is between {a:g} and {b:g}; "
            f"the policy of {of} was trained on one between {c:g} and {d:g}"
        )


def check_actions(stage: StageRecipe, action: Action) -> None:
    """Refuse a method or a setting that the action space of a resolved stage rules out.

    Raises:
        RecipeError: discrete actions where a gradient leads through them, or where a tanh or a
            spread is asked for; continuous ones where a sum runs over all; a target entropy that no
            policy has.
    """
    source, network = stage.data.source, stage.network
    if isinstance(action, Box):
        _check_continuous(stage, action)
        return
    if "pathwise" in row(stage.algorithm).fixed:  # a gradient leads through the action
        raise RecipeError(
            f"data.source: {source} has {action.count} actions to choose from; {stage.algorithm} "
            "needs continuous ones (ppo is for both)"
        )
    if network.distribution == "squashed":
        raise RecipeError(
            f"network.distribution: squashed is not allowed with the discrete actions of {source}; "
            "gaussian"
        )
    if network.log_std != Network.model_fields["log_std"].default:
        raise RecipeError(
            f"network.log_std: {network.log_std:g} has no effect with the discrete actions of "
            f"{source}; remove it"
        )


def _check_continuous(stage: StageRecipe, action: Box) -> None:
    source = stage.data.source
    if stage.credit.baseline == "action":
        raise RecipeError(
            f"credit.baseline: action is not allowed with the continuous actions of {source}: its "
            "correction is a sum over all actions; value"
        )
    target, most = stage.temperature.target_entropy, len(action.low) * math.log(2)
    if target is not None and target >= most:
        raise RecipeError(
            f"temperature.target_entropy: {target:g} is not allowed; less than {most:.3g}, the "
            "entropy of actions drawn evenly between -1 and 1"
        )


def check_vocabulary(
    field: str, reader: tuple[str, ScalarModel | LanguageModel], policy: tuple[str, LanguageModel]
) -> None:
    """Refuse a model whose tokens have other ids than those of the policy.

    Args:
        field: of the recipe that names the reader.
        reader: path and model of a critic, a reward model or a process reward model.
        policy: path and model whose tokens it reads.

    Raises:
        ModelError: names both, and a token that they do not share.
    """
    theirs, ours = (one[1].tokenizer.get_vocab() for one in (reader, policy))
    if theirs == ours:
        return
    place, token = min((place, token) for token, place in ours.items() ^ theirs.items())
    raise ModelError(
        f"{field}: the tokeniser of {reader[0]!r} ({len(theirs):,} tokens) is not that of "
        f"{policy[0]!r} ({len(ours):,}), whose ids it reads: only one of them has {token!r} "
        f"as number {place}"
    )


def check_reach(field: str, reader: ScalarModel | LanguageModel, longest: int) -> None:
    """Refuse a model whose context is shorter than the longest prompt and response together.

    Raises:
        ModelError: how many tokens it reads, and what to lower.
    """
    if (reach := context_length(reader)) < longest:
        raise ModelError(
            f"{field}: reads {reach:,} tokens at most, and prompt and response may have "
            f"{longest:,}; lower data.max_prompt_tokens or rollout.max_new_tokens"
        )
