"""Procedural data sets of the optional package reasoning-gym, scored by exact comparison.

The scorers of the package are not used. The default one gives credit when the answer merely occurs
in the text, and several others evaluate the text as Python, which must not happen to what a model
wrote. So of a data set with many right answers to one question (countdown) only the one in its rows
counts as right, and a data set whose rows have no answer (rush_hour) is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from polopt.envs.text.interface import Split, split_of
from polopt.errors import MissingExtraError, RecipeError, did_you_mean, one_line
from polopt.recipe import shown

PREFIX = "reasoning-gym:"
BLOCK = 64  # rows that share one generator; some of them are slow to build
DRAWS = 128  # candidates for one row; each is of the split with p >= 1/4, none is with p < 1e-15


@dataclass(frozen=True)
class ReasoningGym:
    """One data set of reasoning-gym as an endless source of rows."""

    dataset: str
    parameters: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return PREFIX + self.dataset

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """The first candidate of an index whose prompt belongs to the split.

        Raises:
            RecipeError: the data set has too few prompts, or rows without an answer.
        """
        block, place = divmod(index, BLOCK)
        seed = _seed(self.seed, split, block)
        generator = _generator(self.dataset, self.parameters, seed)
        for candidate in range(place, BLOCK * DRAWS, BLOCK):
            with _random_numbers(seed + candidate):
                entry = generator[candidate]
            answer = entry["answer"]
            if isinstance(answer, str) and split_of(entry["question"]) == split:
                return {"prompt": entry["question"], "answer": answer, "completion": answer}
        raise RecipeError(
            f"data.source: {self.name} cannot be used: {DRAWS} draws gave no {split} row; "
            "its prompts are too few to hold some out, or have no single right answer"
        )

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """1.0 where the completion is the answer, but for whitespace around them."""
        return float(completion.strip() == row["answer"].strip())

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """No further metrics."""
        return {}


def load(dataset: str, parameters: Mapping[str, Any], seed: int) -> ReasoningGym:
    """A data set by its name in reasoning-gym; parameters are the fields of its configuration.

    Raises:
        MissingExtraError: the package is not installed.
        RecipeError: no such data set or parameter, a value it refuses, or rows without an answer.
    """
    try:
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise MissingExtraError(
            f"data.source: {PREFIX}{dataset} needs the package reasoning-gym: "
            'pip install "polopt[tasks]"'
        ) from error
    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS, "see the gallery of reasoning-gym")
        raise RecipeError(f"data.source: {PREFIX}{dataset} is no data set of reasoning-gym; {hint}")
    fields = {f.name for f in dataclasses.fields(DATASETS[dataset][1])} - {"seed", "size"}
    for name in parameters:
        if name not in fields:
            hint = did_you_mean(name, fields, "allowed: " + ", ".join(sorted(fields)))
            raise RecipeError(f"data.parameters.{name}: unknown; {hint}")
    task = ReasoningGym(dataset, tuple(sorted(parameters.items())), seed)
    try:
        task.row("evaluation", 0)
    except (AssertionError, TypeError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        given = ", ".join(f"{key} = {shown(value)}" for key, value in task.parameters)
        raise RecipeError(
            f"data.parameters: {task.name} refuses {given or 'its defaults'}: {one_line(error)}"
        ) from error
    return task


@lru_cache(maxsize=4)
def _generator(dataset: str, parameters: tuple[tuple[str, Any], ...], seed: int) -> Any:  # noqa: ANN401
    """The candidates of one block: DRAWS for each of its rows."""
    import reasoning_gym  # pyright: ignore[reportMissingImports] - an extra

    with _random_numbers(seed):
        return reasoning_gym.create_dataset(
            dataset, seed=seed, size=BLOCK * DRAWS, **dict(parameters)
        )


def _seed(seed: int, split: Split, block: int) -> int:
    """Thirty bits: a data set adds the index, and numpy takes no seed above 2^32 - 1."""
    digest = hashlib.blake2b(f"{seed}/{split}/{block}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 2


@contextmanager
def _random_numbers(seed: int) -> Generator[None]:
    """Fixed global random states: some data sets draw from them, one reseeds them."""
    state, array_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)
