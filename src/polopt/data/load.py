"""One entry for every data source: rows to train on and fixed rows to evaluate on.

Finite sources (files, the hub) are read and checked before anything runs. Generated sources
(tasks) are given as a function, ``row(split, index) -> columns``, and never end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polopt.data import files, hub
from polopt.data.fields import accept
from polopt.data.preferences import accept_ranked
from polopt.data.rows import Columns, Fields, Read, Report, Row, Rows, Text, usable
from polopt.data.stream import shuffled
from polopt.errors import DataError
from polopt.recipe import Data
from polopt.seeding import derive

Split = Literal["train", "evaluation"]
OF_TASKS = Fields(completions="completions", ranks="ranks")
HELD_OUT_SHARE = 10  # at most one distinct prompt in ten is held out for evaluation


def load_rows(
    data: Data,
    evaluation_prompts: int,
    seed: int,
    *,
    demonstrations: bool = False,
    preferences: bool = False,
    check: Callable[[Row], object] | None = None,
) -> Rows:
    """The rows of a local file or a hub data set.

    Evaluation never shares a prompt with training. Its rows come from ``data.evaluation_source``,
    or ``min(evaluation_prompts, a tenth)`` of the distinct prompts of the source are held out;
    either way the seed chooses them, and every training row with such a prompt is left out.

    Args:
        data: section of the recipe.
        evaluation_prompts: how many distinct prompts to evaluate on, at most.
        seed: decides which prompts are held out.
        demonstrations: whether every row must hold a demonstration.
        preferences: whether every row must hold a pair or a ranking.
        check: further conditions, which raise ``BadRowError`` (see ``Tokeniser.check``).

    Raises:
        DataError: a source, or a row of it, that cannot be used; too few distinct prompts.
    """
    fields = Fields(
        data.prompt_field,
        data.completion_field,
        data.chosen_field,
        data.rejected_field,
        data.completions_field,
        data.ranks_field,
    )

    def taken(where: str, columns: Columns) -> Row:
        row = _accepted(where, columns, fields, demonstrations, preferences)
        if check is not None:
            check(row)
        return row

    cap = data.max_bad_share if data.on_bad_row == "skip" else None
    rows, skipped = usable(data.source, _read(data, data.source, "data.source"), taken, cap)
    others_skipped: dict[str, int] = {}
    if data.evaluation_source is None:
        held_out = _held_out(data.source, rows, evaluation_prompts, seed)
    else:
        found = _read(data, data.evaluation_source, "data.evaluation_source")
        others, others_skipped = usable(data.evaluation_source, found, taken, cap)
        held_out = _chosen(others, evaluation_prompts, seed)
    train = [row for row in rows if _key(row.prompt) not in held_out]
    if not train:
        raise DataError(f"{data.source}: every prompt is one of evaluation; none is left to train")
    report = Report(
        source=data.source,
        read=len(rows) + sum(skipped.values()),
        skipped=skipped,
        train=len(train),
        evaluation=len(held_out),
        evaluation_skipped=others_skipped,
        overlapping=len(rows) - len(train),
    )
    return Rows(train, len(train), tuple(held_out.values()), report)


def plain_rows(
    source: str, name: str, data: Data, check: Callable[[Row], object] | None = None
) -> Sequence[Row]:
    """The rows of a file or a hub data set that hold plain text in the column ``name``.

    Raises:
        DataError: a source, or a row of it, that cannot be used.
    """
    fields = Fields(name)

    def taken(where: str, columns: Columns) -> Row:
        row = accept(where, columns, fields, demonstrations=False)
        if check is not None:
            check(row)
        return row

    cap = data.max_bad_share if data.on_bad_row == "skip" else None
    return usable(source, _read(data, source, "pretraining.source"), taken, cap)[0]


def asked(file: str, name: str, check: Callable[[Row], object]) -> Sequence[Row]:
    """The prompts of a file, in the column ``name``.

    Raises:
        DataError: a file, or a row of it, that cannot be used.
    """

    def taken(where: str, columns: Columns) -> Row:
        row = accept(where, columns, Fields(name), demonstrations=False)
        check(row)
        return row

    return usable(file, files.read(file, "file"), taken, None)[0]


def generated(
    source: str,
    row: Callable[[Split, int], Mapping[str, Any]],
    evaluation_prompts: int,
    *,
    demonstrations: bool = False,
    preferences: bool = False,
) -> Rows:
    """The rows of a task: endless training rows, and the first rows of its evaluation split.

    Args:
        source: name of the task, for messages.
        row: the columns of an index, a pure function; its splits share no prompt.
        evaluation_prompts: how many rows to evaluate on.
        demonstrations: whether every row must hold a demonstration.
        preferences: whether every row must hold a ranking.
    """
    train = _Generated(source, row, "train", demonstrations, preferences)
    held_out = _Generated(source, row, "evaluation", demonstrations, preferences)
    evaluation = tuple(held_out[index] for index in range(evaluation_prompts))
    return Rows(train, None, evaluation, Report(source, read=None, evaluation=len(evaluation)))


@dataclass(frozen=True)
class _Generated:
    """The endless rows of one split of a task."""

    source: str
    row: Callable[[Split, int], Mapping[str, Any]]
    split: Split
    demonstrations: bool
    preferences: bool

    def __getitem__(self, index: int, /) -> Row:
        where = f"{self.source}:{self.split}:{index}"
        columns = self.row(self.split, index)
        return _accepted(where, columns, OF_TASKS, self.demonstrations, self.preferences)


def _accepted(
    where: str, columns: Columns, fields: Fields, demonstrations: bool, preferences: bool
) -> Row:
    if preferences:
        return accept_ranked(where, columns, fields)
    return accept(where, columns, fields, demonstrations)


def _read(data: Data, source: str, field: str) -> Iterator[Read]:
    if source.startswith(hub.PREFIX):
        return hub.read(source, data.split, field)
    return files.read(source, field)


def _held_out(source: str, rows: Sequence[Row], most: int, seed: int) -> dict[str, Row]:
    """A row of each held-out prompt: a tenth of the distinct prompts, rounded up; at most ``most``.

    Raises:
        DataError: fewer than two distinct prompts.
    """
    distinct = len({_key(row.prompt) for row in rows})
    if distinct < 2:
        raise DataError(
            f"{source}: all {len(rows)} rows have the same prompt; at least two prompts, one to "
            "train and one to evaluate on, or data.evaluation_source"
        )
    return _chosen(rows, min(most, -(-distinct // HELD_OUT_SHARE)), seed)


def _chosen(rows: Sequence[Row], most: int, seed: int) -> dict[str, Row]:
    """The first rows of at most ``most`` distinct prompts, which the seed chooses."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(_key(row.prompt), row)
    keys = list(first)
    order = shuffled(len(keys), derive(seed, "held out"))
    return {keys[index]: first[keys[index]] for index in order[:most]}


def _key(prompt: Text) -> str:
    """A key that is equal for equal prompts."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
