"""A trained policy, for use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Unpack, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.algorithms import row
from polopt.api.device import device_of
from polopt.api.domains import IN_DOMAIN, domain_of_weights
from polopt.api.recorded import located, stage_at
from polopt.api.sampling import Settings, sampled
from polopt.assembly.chosen import named
from polopt.coordination import memory
from polopt.data import BadRowError, Row, Tokeniser, whole
from polopt.data.fields import accept
from polopt.data.rows import Fields, Text
from polopt.errors import DataError, ModelError, RecipeError, RunDirectoryError
from polopt.models import LanguageModel, context_length
from polopt.models import load as load_model
from polopt.models.network import load_policy
from polopt.recipe import Data
from polopt.roles.control import StepActor
from polopt.rollout import usage
from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.rollout.usage import Usage
from polopt.types import Prompt, Sample, Sampling

OnePrompt = str | Sequence[Mapping[str, Any]]  # text, or chat messages
LONGEST = 256  # tokens of an answer, of a model that says nothing else
SHORTER = f"fewer or shorter answers (n, max_new_tokens) take less, {memory.WITHOUT_GPU}"


@dataclass(frozen=True)
class Policy:
    """A language model that answers prompts as it did in training."""

    language_model: LanguageModel
    usage: Usage
    seeds: Iterator[int] = field(default_factory=count)  # used by calls without a seed

    @overload  # text is a sequence of texts, too: the first that fits counts
    def respond(  # pyright: ignore[reportOverlappingOverload]
        self,
        prompts: OnePrompt,
        *,
        n: None = None,
        seed: int | None = None,
        **settings: Unpack[Settings],
    ) -> str: ...

    @overload
    def respond(  # pyright: ignore[reportOverlappingOverload]
        self, prompts: OnePrompt, *, n: int, seed: int | None = None, **settings: Unpack[Settings]
    ) -> list[str]: ...

    @overload
    def respond(
        self,
        prompts: Sequence[OnePrompt],
        *,
        n: None = None,
        seed: int | None = None,
        **settings: Unpack[Settings],
    ) -> list[str]: ...

    @overload
    def respond(
        self,
        prompts: Sequence[OnePrompt],
        *,
        n: int,
        seed: int | None = None,
        **settings: Unpack[Settings],
    ) -> list[list[str]]: ...

    def respond(
        self,
        prompts: OnePrompt | Sequence[OnePrompt],
        *,
        n: int | None = None,
        seed: int | None = None,
        **settings: Unpack[Settings],
    ) -> str | list[str] | list[list[str]]:
        """The answer to a prompt, or to each of a list of prompts; with ``n``, a list of n of them.

        A prompt is text or a list of chat messages. Messages go through the chat template; so does
        text, as a turn of the user, where the policy was trained on messages, or is a model with a
        template that was not trained here. Other text is tokenised as it is.
        An answer is what a reward function gets: with the stop string that ended it.

        Args:
            prompts: one prompt, or a list of prompts.
            n: answers to each prompt.
            seed: of the draws; calls without one use 0, 1, 2, ... in turn.
            settings: ``temperature`` (default: 0, the most likely answer; of several answers that
                of the training), ``top_p``, ``max_new_tokens`` (an answer also ends where the
                context does) and ``stop``, a string or several (defaults: those of the training).

        Raises:
            DataError: a prompt that training would refuse, or that fills the context.
            RecipeError: a setting that is not allowed.
        """
        alone = not _are_many(prompts)
        given = cast("Sequence[OnePrompt]", [prompts] if alone else prompts)
        sampling = sampled(self.usage.sampling, n, **settings)
        rows = [_row(f"prompt {number}", prompt) for number, prompt in enumerate(given, 1)]
        drawn = _or_next(seed, self.seeds)
        requests = [self.request(row, i, sampling, drawn, n or 1) for i, row in enumerate(rows)]
        with memory.told("answers", SHORTER):
            groups = answered(LocalEngine(self.language_model), requests)
        answers = [[self.answer(sample) for sample in group.samples] for group in groups]
        if n is not None:
            return answers[0] if alone else answers
        return answers[0][0] if alone else [one for (one,) in answers]

    def read(self, file: str | Path) -> list[Text]:
        """The prompts in a .jsonl, .csv or .parquet file, in the column that training read.

        Raises:
            DataError: a file or a row that cannot be used.
        """
        data = Data(source=str(file), prompt_field=self.usage.prompt_field)
        rows, _ = whole(data, "file", check=lambda row: self._prompt(row).keys)
        return [row.prompt for row in rows]

    def request(
        self, row: Row, ticket: int, sampling: Sampling, seed: int, count: int = 1
    ) -> Request:
        """A request for answers to the prompt of a row, none longer than the context leaves.

        Raises:
            DataError: as :meth:`respond`.
        """
        prompt = self._prompt(row, ticket)
        room = context_length(self.language_model) - len(prompt.tokens)
        longest = min(sampling.max_new_tokens, room)
        return Request(ticket, prompt, count, replace(sampling, max_new_tokens=longest), seed)

    def text(self, response: list[int]) -> str:
        """The tokens of a response as text, without special tokens."""
        return str(self.language_model.tokenizer.decode(response, skip_special_tokens=True))

    def answer(self, sample: Sample) -> str:
        """The response of a sample as text."""
        return self.text(sample.tokens[sample.prompt_length :].tolist())

    @cached_property
    def _tokeniser(self) -> Tokeniser:
        longest = context_length(self.language_model) - 1
        return Tokeniser(self.language_model.tokenizer, max_prompt_tokens=longest)

    def _prompt(self, row: Row, id: int = 0) -> Prompt:
        """The prompt of a row, with the tokens that training would make of it."""
        if self.usage.messages and isinstance(row.prompt, str):
            row = replace(row, prompt=({"role": "user", "content": row.prompt},))
        if not isinstance(row.prompt, str) and self.language_model.tokenizer.chat_template is None:
            detail = "is a list of messages, and the tokeniser has no chat template; text"
            raise BadRowError(row.where, "wrong type", detail, row.fields.prompt)
        return self._tokeniser.prompt(row, id)


def _are_many(prompts: object) -> bool:
    """Whether it is a list of prompts; a list of messages is one prompt."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return False
    return not (prompts and isinstance(prompts[0], Mapping))


def _row(where: str, prompt: object) -> Row:
    """A prompt as a row without a name for its column.

    Raises:
        BadRowError: it is no prompt.
    """
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        prompt = [dict(one) if isinstance(one, Mapping) else one for one in prompt]
    return accept(where, {"": prompt}, Fields(""), demonstrations=False)


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
    """The seed of a call.

    Raises:
        RecipeError: it is below 0.
    """
    if seed is not None and seed < 0:
        raise RecipeError(f"seed: {seed} is not allowed; an integer >= 0")
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


def load(path: str, device: str = "auto") -> Policy | ControlPolicy:
    """The last weights of a run, those of one of its checkpoints, or a model.

    Args:
        path: the directory of a run, of a checkpoint (``checkpoints/best`` has the best weights
            that were evaluated, and may stand elsewhere), or of a model, or a hub id.
        device: where a language model computes.

    Raises:
        ModelError: a model that cannot be loaded.
        RecipeError: a device that is not there.
        RunDirectoryError: a run without a checkpoint, or the weights of a reward model.
    """
    weights = path
    if (found := located(Path(path).expanduser())) is not None:
        run, directory = found
        _check_answers(run, directory)
        weights = str(directory)
    read = IN_DOMAIN[domain_of_weights(weights)].policy
    policy: Policy | ControlPolicy = named(read)(weights, device_of(device, "device"))
    return policy


def _check_answers(run: Path, weights: Path) -> None:
    """Refuse the weights of a reward model; those of an earlier stage may be a policy.

    Raises:
        RunDirectoryError: the weights are those of a reward model.
    """
    if row(stage_at(run, weights).algorithm).trains != "actor":
        raise RunDirectoryError(
            f"{weights}: a reward model, which answers nothing; load it with "
            "AutoModelForSequenceClassification.from_pretrained of transformers"
        )


def of_control(weights: str, device: torch.device) -> ControlPolicy:
    """A policy in control with its observation statistics; its small network stays on the CPU."""
    return ControlPolicy(StepActor(load_policy(Path(weights))))


def of_text(weights: str, device: torch.device) -> Policy:
    """A language model, to be asked as it was in training.

    Raises:
        ModelError: a model that cannot be loaded.
    """
    try:
        language_model = load_model(weights)
    except ModelError as error:  # there is no recipe that could have a field
        raise ModelError(str(error).removeprefix("model.path: ")) from error
    with memory.told("loading", memory.WITHOUT_GPU):
        language_model.model.to(device)  # pyright: ignore[reportArgumentType] - torch's overloads
    return Policy(language_model, usage.read(Path(weights)) or _of_model(language_model))


def _of_model(language_model: LanguageModel) -> Usage:
    """How a model is asked that was not trained here: by its template, sampled by its own file."""
    own = language_model.model.generation_config
    return Usage(
        messages=language_model.tokenizer.chat_template is not None,
        prompt_field=Fields().prompt,
        sampling=Sampling(
            temperature=getattr(own, "temperature", None) or 1.0,
            top_p=getattr(own, "top_p", None) or 1.0,
            max_new_tokens=getattr(own, "max_new_tokens", None) or LONGEST,
        ),
    )
