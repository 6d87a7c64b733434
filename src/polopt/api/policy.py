"""A trained policy, for use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt import record
from polopt.algorithms import row
from polopt.api.domains import IN_DOMAIN, domain_of_weights
from polopt.api.recorded import located, recorded
from polopt.assembly.chosen import named
from polopt.errors import DataError, RunDirectoryError
from polopt.models import LanguageModel
from polopt.models import load as load_model
from polopt.models.network import load_policy
from polopt.recipe import StageRecipe
from polopt.roles.control import StepActor
from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.types import Prompt, Sampling


@dataclass(frozen=True)
class Policy:
    """A trained language model that samples responses to prompts."""

    language_model: LanguageModel
    sampling: Sampling
    seeds: Iterator[int] = field(default_factory=count)  # used by calls without a seed

    def respond(
        self, prompts: Sequence[str], *, temperature: float = 0.0, seed: int | None = None
    ) -> list[str]:
        """One answer to each prompt; temperature 0 takes the most likely token.

        Args:
            prompts: texts.
            temperature: of sampling.
            seed: of the draws; calls without one use 0, 1, 2, ... in turn.

        Raises:
            DataError: a prompt without a token.
        """
        tokenizer = self.language_model.tokenizer
        tokens = [tuple(tokenizer(text)["input_ids"]) for text in prompts]
        if () in tokens:
            raise DataError(f"prompts: number {tokens.index(())} is empty; at least one token")
        sampling = Sampling(temperature, max_new_tokens=self.sampling.max_new_tokens)
        engine = LocalEngine(self.language_model, seed=_or_next(seed, self.seeds))
        asked = [
            Request(i, Prompt(i, text, own), 1, sampling)
            for i, (text, own) in enumerate(zip(prompts, tokens, strict=True))
        ]
        samples = [group.samples[0] for group in answered(engine, asked)]
        responses = [sample.tokens[sample.prompt_length :] for sample in samples]
        return [str(tokenizer.decode(one, skip_special_tokens=True)) for one in responses]


@dataclass(frozen=True)
class ControlPolicy:
    """A trained policy in control that gives actions for observations."""

    actor: StepActor
    seeds: Iterator[int] = field(default_factory=count)  # used by calls without a seed

    def act(
        self,
        observations: NDArray[np.floating[Any]],
        *,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> NDArray[Any]:
        """The action for an observation, or one for each of N: an integer, or numbers [D].

        Args:
            observations: as the environment gives them: O numbers in any shape, or [N, ...] of
                that; a discrete one of n values as a one-hot vector. Not yet normalised.
            deterministic: the most likely action; otherwise one that is drawn.
            seed: of the draw; calls without one use 0, 1, 2, ... in turn.

        Raises:
            DataError: observations of another size, or that are not finite numbers.
        """
        given, alone = _rows(observations, self.actor.network.made_of.observation_size)
        generator = None
        if not deterministic:
            generator = torch.Generator().manual_seed(_or_next(seed, self.seeds))
        moved = self.actor.moved(self.actor.choose(given, generator))
        return moved[0] if alone else moved


def _or_next(seed: int | None, seeds: Iterator[int]) -> int:
    return next(seeds) if seed is None else seed


def _rows(observations: object, size: int) -> tuple[NDArray[np.float32], bool]:
    """Observations as [N, size], and whether a single one was given.

    Raises:
        DataError: another size, or numbers that are not finite.
    """
    try:
        given = np.asarray(observations, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # of numpy, and of a tensor with grad
        raise DataError(
            f"observations: a {type(observations).__name__} that is no array of numbers; the "
            "observation alone, without what reset() and step() give beside it"
        ) from error
    many = given.ndim > 1 and prod(given.shape[1:]) == size
    if not many and given.size != size:
        hint = "; a number among n is n flags, np.eye(n)[number]" if given.ndim == 0 else ""
        raise DataError(f"observations: shape {given.shape}; {size} numbers, or (N, {size}){hint}")
    if not np.isfinite(given).all():
        raise DataError("observations: not all are finite numbers")
    return given.reshape(-1, size), not many


def load(path: Path) -> Policy | ControlPolicy:
    """The last weights of a run, or those of one of its checkpoints.

    Args:
        path: the directory of the run, or a checkpoint in it: ``checkpoints/best`` has the best
            weights that were evaluated.

    Raises:
        RunDirectoryError: no run, one without a checkpoint, or one that ends in a reward model.
    """
    if (found := located(path)) is None:
        record.open_existing(path)  # raises for a missing run
        raise RunDirectoryError(
            f"{path}: neither a run with a checkpoint nor one of its checkpoints"
        )
    run, weights = found
    config = record.open_existing(run).config
    read = IN_DOMAIN[domain_of_weights(str(weights))].policy
    policy: Policy | ControlPolicy = named(read)(run, weights, recorded(config).stages[-1])
    return policy


def of_control(run: Path, weights: Path, stage: StageRecipe) -> ControlPolicy:
    """A policy in control with its observation statistics."""
    return ControlPolicy(StepActor(load_policy(weights)))


def of_text(run: Path, weights: Path, stage: StageRecipe) -> Policy:
    """A language model with the response length of its training.

    Raises:
        RunDirectoryError: the weights are those of a reward model.
    """
    if row(stage.algorithm).trains != "actor":
        raise RunDirectoryError(
            f"{run}: the run ends in a reward model, which answers nothing; load {weights} with "
            "AutoModelForSequenceClassification.from_pretrained of transformers"
        )
    return Policy(load_model(str(weights)), Sampling(max_new_tokens=stage.rollout.max_new_tokens))
