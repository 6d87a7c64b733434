"""One entry for every data source: rows to train on and fixed rows to evaluate on.

Finite sources (files, the hub) are read and checked before anything runs. Generated sources
(tasks) are given as a function, ``row(split, index) -> columns``, and never end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from polopt.data import files, hub
from polopt.data.fields import accept
from polopt.data.identity import keys, unique
from polopt.data.preferences import accept_ranked
from polopt.data.rows import Columns, Fields, Read, Report, Row, Rows, usable
from polopt.data.stream import shuffled
from polopt.errors import DataError
from polopt.recipe import Data
from polopt.seeding import derive

Split = Literal["train", "evaluation"]
Wanted = Literal["prompts", "demonstrations", "pairs"]  # of every row
Check = Callable[[Row], tuple[str, ...]]
OF_TASKS = Fields(completions="completions", ranks="ranks")
HELD_OUT_SHARE = 10  # at most one distinct prompt in ten is held out for evaluation
DRAWS, FAR = 64, 1 << 40  # of a generated row in the place of another: indices no run gets to


def load_rows(
    data: Data,
    evaluation_prompts: int,
    seed: int,
    *,
    wanted: Wanted = "prompts",
    check: Check | None = None,
    avoid: Collection[str] = (),
) -> Rows:
    """The rows of a local file or a hub data set.

    Evaluation never shares a prompt with training. Its rows come from ``data.evaluation_source``,
    or ``min(evaluation_prompts, a tenth)`` of the distinct prompts of the source are held out;
    either way the seed chooses them, and every training row with such a prompt is left out.

    Args:
        data: section of the recipe.
        evaluation_prompts: how many distinct prompts to evaluate on, at most.
        seed: which prompts are held out.
        wanted: what every row must hold.
        check: further conditions, which raise ``BadRowError``; gives the keys of the row
            (``Tokeniser.check``).
        avoid: keys of further prompts that must not be trained on.

    Raises:
        DataError: a source, or a row of it, that cannot be used; too few distinct prompts.
    """
    taken, cap = _taken(data, wanted, check), _cap(data)
    rows, skipped = usable(data.source, read_source(data, data.source, "data.source"), taken, cap)
    evaluation, others_skipped = _evaluation(data, rows, evaluation_prompts, seed, taken)
    own = {key for row in evaluation for key in row.keys}
    unseen = [row for row in rows if own.isdisjoint(row.keys)]
    train = [row for row in unseen if not any(key in avoid for key in row.keys)]
    if not train:
        raise DataError(
            f"{data.source}: every prompt is one of evaluation, of this stage or of another one; "
            "none is left to train"
        )
    report = Report(
        source=data.source,
        read=len(rows) + sum(skipped.values()),
        skipped=skipped,
        train=len(train),
        evaluation=len(evaluation),
        evaluation_skipped=others_skipped,
        overlapping=len(rows) - len(train),
        elsewhere=len(unseen) - len(train),
    )
    return Rows(train, len(train), evaluation, report)


def evaluation_rows(
    data: Data,
    evaluation_prompts: int,
    seed: int,
    *,
    wanted: Wanted = "prompts",
    check: Check | None = None,
) -> tuple[Row, ...]:
    """The rows that :func:`load_rows` evaluates on; training rows are read where they come first.

    Raises:
        DataError: a source, or a row of it, that cannot be used; too few distinct prompts.
    """
    taken, rows = _taken(data, wanted, check), list[Row]()
    if data.evaluation_source is None:
        found = read_source(data, data.source, "data.source")
        rows = usable(data.source, found, taken, _cap(data))[0]
    return _evaluation(data, rows, evaluation_prompts, seed, taken)[0]


def whole(
    data: Data, field: str, *, wanted: Wanted = "prompts", check: Check | None = None
) -> tuple[Sequence[Row], Mapping[str, int]]:
    """Every row of a source, to be evaluated on or answered, and how many were bad, by reason.

    ``field`` names the source in messages.

    Raises:
        DataError: a source, or a row of it, that cannot be used.
    """
    taken = _taken(data, wanted, check)
    return usable(data.source, read_source(data, data.source, field), taken, _cap(data))


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

    return usable(source, read_source(data, source, "pretraining.source"), taken, _cap(data))[0]


def generated(
    source: str,
    row: Callable[[Split, int], Mapping[str, Any]],
    evaluation_prompts: int,
    *,
    wanted: Wanted = "prompts",
    avoid: Collection[str] = (),
) -> Rows:
    """The rows of a task: endless training rows, and the first rows of its evaluation split.

    Args:
        source: name of the task, for messages.
        row: the columns of an index, a pure function; its splits share no prompt.
        evaluation_prompts: how many rows to evaluate on.
        wanted: what every row must hold.
        avoid: keys of further prompts that must not be trained on; the row of such an index is
            drawn anew.
    """
    train = _Generated(source, row, "train", wanted, avoid)
    held_out = _Generated(source, row, "evaluation", wanted)
    evaluation = tuple(held_out[index] for index in range(evaluation_prompts))
    return Rows(train, None, evaluation, Report(source, read=None, evaluation=len(evaluation)))


@dataclass(frozen=True)
class _Generated:
    """The endless rows of one split of a task."""

    source: str
    row: Callable[[Split, int], Mapping[str, Any]]
    split: Split
    wanted: Wanted
    avoid: Collection[str] = ()

    def __getitem__(self, index: int, /) -> Row:
        where = f"{self.source}:{self.split}:{index}"
        for draw in range(DRAWS):
            columns = self.row(self.split, index + draw * FAR)
            row = _accepted(where, columns, OF_TASKS, self.wanted)
            if not any(key in self.avoid for key in row.keys):
                return row
        raise DataError(f"{where}: {DRAWS} draws gave no row whose prompt is not one of evaluation")


def _taken(data: Data, wanted: Wanted, check: Check | None) -> Callable[[str, Columns], Row]:
    """The function that makes a row of columns, or says what is wrong with them."""
    fields = Fields(
        data.prompt_field,
        data.completion_field,
        data.chosen_field,
        data.rejected_field,
        data.completions_field,
        data.ranks_field,
    )

    def taken(where: str, columns: Columns) -> Row:
        row = _accepted(where, columns, fields, wanted)
        return row if check is None else replace(row, keys=check(row))

    return taken


def _accepted(where: str, columns: Columns, fields: Fields, wanted: Wanted) -> Row:
    if wanted == "pairs":
        row = accept_ranked(where, columns, fields)
    else:
        row = accept(where, columns, fields, demonstrations=wanted == "demonstrations")
    responses = [row.completion, *(one.completion for one in row.ranked)]
    return replace(row, keys=unique(key for one in responses for key in keys(row.prompt, one)))


def _cap(data: Data) -> float | None:
    """The share of bad rows that may be skipped; None: the first one is an error."""
    return data.max_bad_share if data.on_bad_row == "skip" else None


def _evaluation(
    data: Data,
    rows: Sequence[Row],
    most: int,
    seed: int,
    taken: Callable[[str, Columns], Row],
) -> tuple[tuple[Row, ...], dict[str, int]]:
    """The rows to evaluate on, of their own source or held out; bad rows of that source."""
    if data.evaluation_source is None:
        return _held_out(data.source, rows, most, seed), {}
    found = read_source(data, data.evaluation_source, "data.evaluation_source")
    others, skipped = usable(data.evaluation_source, found, taken, _cap(data))
    return _chosen(others, most, seed), skipped


def read_source(data: Data, source: str, field: str) -> Iterator[Read]:
    """What stands in a file or a hub data set, row after row; ``field`` names it in messages."""
    if source.startswith(hub.PREFIX):
        return hub.read(source, data.split, field)
    return files.read(source, field)


def _held_out(source: str, rows: Sequence[Row], most: int, seed: int) -> tuple[Row, ...]:
    """A tenth of the distinct prompts, rounded up, or ``most``; a row of each."""
    distinct = len({row.keys[0] for row in rows})
    if distinct < 2:
        raise DataError(
            f"{source}: all {len(rows)} rows have the same prompt; at least two prompts, one to "
            "train and one to evaluate on, or data.evaluation_source"
        )
    return _chosen(rows, min(most, -(-distinct // HELD_OUT_SHARE)), seed)


def _chosen(rows: Sequence[Row], most: int, seed: int) -> tuple[Row, ...]:
    """The first rows of at most ``most`` distinct prompts, which the seed chooses."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.keys[0], row)
    each = list(first.values())
    order = shuffled(len(each), derive(seed, "held out"))
    return tuple(each[index] for index in order[:most])
