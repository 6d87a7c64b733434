"""Pretraining text beside the rollouts; the loss is on every token but the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from polopt.choices.source import parse
from polopt.data import PromptStream, Row, Tokeniser, generated, plain_rows
from polopt.envs.text import load as load_task
from polopt.recipe import StageRecipe
from polopt.seeding import derive
from polopt.types import Batch, Group, Prompt, Sample

Tokens = NDArray[np.int64]


def pretraining_batches(
    stage: StageRecipe,
    tokeniser: Tokeniser,
    inspect: Callable[[Sequence[Row]], None],
    avoid: Collection[str] = (),
) -> Callable[[int], Batch]:
    """The batch at a place of the stream of texts; of a task, its demonstrations.

    ``inspect`` is given the texts of a file or a data set, all of them, once. Of a task, none has a
    prompt with a key in ``avoid``.

    Raises:
        DataError: a source, or a row of it, that cannot be used.
    """
    seed = derive(stage.run.seed, stage.name, "pretraining")
    text = _texts(stage, tokeniser, seed, inspect, avoid)
    size = stage.pretraining.batch_size

    def batch(place: int) -> Batch:
        places = range(place * size, (place + 1) * size)
        return Batch(tuple(_as_group(p, text(p)) for p in places), taken_at=0)

    return batch


def _texts(
    stage: StageRecipe,
    tokeniser: Tokeniser,
    seed: int,
    inspect: Callable[[Sequence[Row]], None],
    avoid: Collection[str],
) -> Callable[[int], Tokens]:
    settings = stage.pretraining
    assert settings.source is not None, "asked for"
    if not parse(settings.source).of.has_columns:
        parameters = stage.data.parameters if settings.source == stage.data.source else {}
        task = load_task(settings.source, parameters, seed)
        found = generated(settings.source, task.row, 0, wanted="demonstrations", avoid=avoid).train
        return lambda place: tokeniser.demonstration(found[place], place).tokens
    rows = plain_rows(settings.source, settings.field, stage.data, check=tokeniser.text)
    inspect(rows)
    order = PromptStream(len(rows), seed)
    return lambda place: tokeniser.text(rows[order(place)])


def _as_group(place: int, tokens: Tokens) -> Group:
    """The first token in the place of a prompt, the rest in that of its response."""
    sample = Sample(
        tokens=tokens,
        mask=np.arange(len(tokens)) > 0,
        logp_rollout=np.full(len(tokens), np.nan, dtype=np.float32),
        prompt_length=1,
    )
    return Group(place, Prompt(place, "", (int(tokens[0]),)), (sample,))
