"""A trained policy, for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polopt import record
from polopt.api.recorded import recorded
from polopt.errors import DataError, RunDirectoryError
from polopt.models import LanguageModel
from polopt.models import load as load_model
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


def load(run: Path) -> Policy:
    """The last weights of a run.

    Raises:
        RunDirectoryError: no run, or one without a checkpoint.
    """
    config = record.open_existing(run).config
    last = run / "checkpoints" / "last"
    if not last.exists():
        raise RunDirectoryError(f"{run}: the run has no checkpoint yet")
    rollout = recorded(config).stages[-1].rollout
    return Policy(load_model(str(last)), Sampling(max_new_tokens=rollout.max_new_tokens))
