"""A trained policy, for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt import record
from polopt.algorithms import row
from polopt.api.recorded import recorded
from polopt.errors import DataError, RunDirectoryError
from polopt.models import LanguageModel
from polopt.models import load as load_model
from polopt.models.network import SPECIFICATION_FILE, load_policy
from polopt.roles.control import StepActor
from polopt.rollout.engines import LocalEngine, Request
from polopt.types import Prompt, Sampling


@dataclass(frozen=True)
class Policy:
    """A language model that answers prompts as it was trained to."""

    language_model: LanguageModel
    sampling: Sampling

    def respond(
        self, prompts: Sequence[str], *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """One answer to each prompt; temperature 0 takes the most likely token.

        Raises:
            DataError: a prompt without a token.
        """
        tokenizer = self.language_model.tokenizer
        tokens = [tuple(tokenizer(text)["input_ids"]) for text in prompts]
        if () in tokens:
            raise DataError(f"prompts: number {tokens.index(())} is empty; at least one token")
        sampling = Sampling(temperature, max_new_tokens=self.sampling.max_new_tokens)
        engine = LocalEngine(self.language_model, seed=seed)
        engine.submit(
            [
                Request(i, Prompt(i, text, own), 1, sampling)
                for i, (text, own) in enumerate(zip(prompts, tokens, strict=True))
            ]
        )
        answers: dict[int, str] = {}
        while groups := engine.poll():
            for group in groups:
                response = group.samples[0].tokens[group.samples[0].prompt_length :]
                answers[group.ticket] = str(tokenizer.decode(response, skip_special_tokens=True))
        return [answers[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class BodyPolicy:
    """A policy that moves a body as it was trained to."""

    actor: StepActor

    def act(
        self, observations: NDArray[np.floating[Any]], *, deterministic: bool = True, seed: int = 0
    ) -> NDArray[Any]:
        """The action for an observation [O], or one for each of [N, O]: an integer, or numbers [D].

        Args:
            observations: as the environment gives them, flattened (``image.reshape(-1)``; of a
                number among n, n flags). Statistics of the policy normalise them.
            deterministic: the likeliest action; otherwise one that is drawn.
            seed: of the draw.

        Raises:
            DataError: observations of another size.
        """
        given = np.asarray(observations, dtype=np.float32)
        size = self.actor.network.made_of.observation_size
        if given.shape[-1:] != (size,) or given.ndim > 2:
            raise DataError(f"observations: shape {given.shape}; ({size},) or (N, {size}), flat")
        generator = None if deterministic else torch.Generator().manual_seed(seed)
        moved = self.actor.moved(self.actor.choose(given.reshape(-1, size), generator))
        return moved[0] if given.ndim == 1 else moved


def load(run: Path) -> Policy | BodyPolicy:
    """The last weights of a run.

    Raises:
        RunDirectoryError: no run, one without a checkpoint, or one that ends in a reward model.
    """
    config = record.open_existing(run).config
    last = run / "checkpoints" / "last"
    if not last.exists():
        raise RunDirectoryError(f"{run}: the run has no checkpoint yet")
    if (last / SPECIFICATION_FILE).is_file():
        return BodyPolicy(StepActor(load_policy(last)))
    stage = recorded(config).stages[-1]
    if row(stage.algorithm).trains != "actor":
        raise RunDirectoryError(
            f"{run}: the run ends in a reward model, which answers nothing; load {last} with "
            "AutoModelForSequenceClassification.from_pretrained of transformers"
        )
    return Policy(load_model(str(last)), Sampling(max_new_tokens=stage.rollout.max_new_tokens))
