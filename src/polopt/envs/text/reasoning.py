"""Procedural data sets of the optional package reasoning-gym.

A table (``comparison.py``) says how the answers to each are compared: as text, by arithmetic of our
own, or by the scorer of the data set. The scorers are not asked without it: the default one gives
credit when the answer merely occurs in the text, several can be had for less than a right answer,
and others evaluate the text as Python, which must not happen to what a model wrote. Those that are
asked run in a process of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from polopt import isolated
from polopt.envs.text.comparison import Comparison, comparison, is_whole, reaches
from polopt.envs.text.interface import Split, split_of
from polopt.errors import RecipeError, did_you_mean, missing_extra, one_line
from polopt.isolated.answers import extracted
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
    is_accuracy: bool = field(default=True, init=False)

    @property
    def reads(self) -> tuple[str]:
        """The answer, or what the comparison needs to know of the question."""
        return ("answer",) if self.comparison.kind == "exact" else ("metadata",)

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return PREFIX + self.dataset

    @property
    def comparison(self) -> Comparison:
        """How its answers are compared."""
        return comparison(self.dataset)

    def row(self, split: Split, index: int) -> dict[str, Any]:
        """The first candidate of an index whose prompt belongs to the split.

        Beside ``prompt`` it has ``answer`` and ``completion``, but for data sets that know none,
        and ``metadata`` where that is needed to judge.

        Raises:
            RecipeError: the data set has too few prompts, or rows without an answer.
        """
        block, place = divmod(index, BLOCK)
        seed = _seed(self.seed, split, block)
        generator = _generator(self.dataset, self.parameters, seed)
        for candidate in range(place, BLOCK * DRAWS, BLOCK):
            with _random_numbers(seed + candidate):
                entry = generator[candidate]
            if split_of(entry["question"]) == split and self._can_be_judged(entry["answer"]):
                return self._columns(entry)
        raise RecipeError(
            f"data.source: {self.name} cannot be used: {DRAWS} draws gave no {split} row; "
            "its prompts are too few to hold some out, or have no answer that can be compared"
        )

    def score(self, completion: str, row: Mapping[str, Any]) -> float:
        """1.0 where the answer is right, else 0.0: less than full marks is no reward.

        Raises:
            TimeoutError, MemoryError, ChildProcessError: there is no verdict.
        """
        answer = extracted(completion)
        if self.comparison.kind == "arithmetic":
            return float(reaches(answer, row["metadata"]))
        if self.comparison.kind == "verifier":
            return float(is_whole(answer, self.comparison) and self._verified(answer, row))
        return float(answer == row["answer"].strip())

    def extract(self, completion: str) -> str:
        """What stands in the last ``<answer>`` tags; all of it where there are none."""
        return extracted(completion)

    def describe(self, completion: str, row: Mapping[str, Any]) -> dict[str, float | None]:
        """No further metrics."""
        return {}

    def _can_be_judged(self, answer: str | None) -> bool:
        """Whether a row has the answer that the comparison needs, in the form that it asks for."""
        if self.comparison.kind == "verifier":
            return answer is None or is_whole(answer.strip(), self.comparison)
        return isinstance(answer, str)

    def _columns(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        answer, columns = entry["answer"], {"prompt": entry["question"]}
        if answer is not None:
            columns |= {"answer": answer, "completion": answer}
        if self.comparison.kind != "exact":
            columns["metadata"] = json.loads(json.dumps(entry["metadata"]))
        return columns

    def _verified(self, answer: str, row: Mapping[str, Any]) -> bool:
        """Whether the data set itself gives an answer full marks."""
        entry = {"answer": row.get("answer"), "metadata": row["metadata"]}
        parameters = json.dumps(dict(self.parameters))
        judge = isolated.pool("polopt.isolated.procedural:prepare", self.dataset, parameters)
        return judge.ask(answer, entry)


def load(dataset: str, parameters: Mapping[str, Any], seed: int) -> ReasoningGym:
    """A data set by its name in reasoning-gym; parameters are the fields of its configuration.

    Raises:
        MissingExtraError: the package is not installed.
        RecipeError: no such data set or parameter, a value it refuses, or answers that cannot be
            compared.
    """
    try:
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        setting = f"data.source: {PREFIX}{dataset}"
        raise missing_extra(setting, "reasoning-gym", "tasks", error) from error
    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS, "see the gallery of reasoning-gym")
        raise RecipeError(f"data.source: {PREFIX}{dataset} is no data set of reasoning-gym; {hint}")
    if (found := comparison(dataset)).kind == "refused":
        raise RecipeError(f"data.source: {PREFIX}{dataset} cannot be used: {found.note}")
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
