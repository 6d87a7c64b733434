"""A row of data, and how bad rows are reported and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from polopt.errors import DataError, one_line

Columns = Mapping[str, Any]
Message = Mapping[str, Any]  # {"role": "user", "content": "3+8-9="}; always with both
Messages = tuple[Message, ...]
Text = str | Messages  # plain text, or a chat
Tools = tuple[Mapping[str, Any], ...]  # schemas of the functions that a chat may call


class BadRowError(DataError):
    """A row that cannot be used: ``prompts.jsonl:12: field 'prompt': is empty; ...``."""

    def __init__(self, where: str, reason: str, detail: str, field: str | None = None) -> None:
        named = f"field {field!r}: " if field else ""
        super().__init__(f"{where}: {named}{one_line(detail)}")
        self.reason = reason  # a few words to count by


Read = tuple[str, Columns | BadRowError]  # place in the source, and its columns or their error


class Fields(NamedTuple):
    """The columns that hold the prompt and the demonstration, the pair, or the ranking."""

    prompt: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    completions: str | None = None  # of a ranking; None: pairs
    ranks: str | None = None  # of the completions; None: the list is best first


class Ranked(NamedTuple):
    """One of several responses to a prompt."""

    completion: Text
    rank: float  # among those of its prompt; lower is better
    field: str  # column that holds it, for messages


@dataclass(frozen=True)
class Row:
    """A row that can be used.

    Example: ``Row("prompts.jsonl:12", "3+8=", None, {"prompt": "3+8=", "answer": "1"}, fields)``
    """

    where: str  # its place, for messages
    prompt: Text
    completion: Text | None  # None where no demonstration was asked for
    columns: Columns  # the row as it was read, unchanged
    fields: Fields
    ranked: tuple[Ranked, ...] = ()  # where preferences were asked for
    tools: Tools = ()  # that a chat may call
    keys: tuple[str, ...] = ()  # of what it asks; rows that share one share a prompt


class Train(Protocol):
    """Training rows by index."""

    def __getitem__(self, index: int, /) -> Row:
        """The row of an index."""
        ...


@dataclass(frozen=True)
class Report:
    """The numbers of rows read, used and left out."""

    source: str
    read: int | None  # rows of the source, bad ones too; None: generated without end
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])  # bad rows by reason
    train: int | None = None  # rows to train on; None: without end
    evaluation: int = 0  # fixed unseen prompts
    evaluation_skipped: Mapping[str, int] = field(default_factory=dict[str, int])  # of its source
    overlapping: int = 0  # rows left out of training because evaluation uses their prompt
    elsewhere: int = 0  # those of them whose prompt another stage is evaluated on

    def lines(self) -> list[str]:
        """The numbers as lines of text."""
        if self.read is None:
            return [f"{self.source}: endless training rows, {self.evaluation} evaluation prompts"]
        found = f"{self.source}: {self.read} rows, {self.train} to train on"
        found += f", {self.evaluation} evaluation prompts"
        if self.overlapping:
            found += f" (kept out of training: {self.overlapping} rows"
            found += f", {self.elsewhere} for another stage)" if self.elsewhere else ")"
        lines = [found]
        if self.skipped:
            lines.append(f"{self.source}: skipped {counted(self.skipped)}")
        if self.evaluation_skipped:
            lines.append(f"data.evaluation_source: skipped {counted(self.evaluation_skipped)}")
        return lines


@dataclass(frozen=True)
class Rows:
    """The rows of a data source, split into training and evaluation.

    ``train[PromptStream(size, seed)(position)]`` is the training row of a position.
    """

    train: Train
    size: int | None  # rows to train on; None: without end
    evaluation: Sequence[Row]
    report: Report


def counted(reasons: Mapping[str, int]) -> str:
    """Counts by reason, most frequent first: ``missing field 10, empty prompt 2``."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ranked)


def usable(
    source: str,
    found: Iterable[Read],
    accept: Callable[[str, Columns], Row],
    max_bad_share: float | None,
) -> tuple[list[Row], dict[str, int]]:
    """The rows that ``accept`` takes, and how many were bad for which reason.

    Args:
        source: name of the data source, for messages.
        found: rows and bad rows in their order.
        accept: turns columns into a row or raises ``BadRowError``.
        max_bad_share: share of all rows that may be skipped; None: the first bad row is an error.

    Raises:
        BadRowError: a bad row, where none may be skipped.
        DataError: more bad rows than may be skipped, or no row that can be used.
    """
    rows: list[Row] = []
    skipped: dict[str, int] = {}
    first: BadRowError | None = None
    for where, columns in found:
        try:
            if isinstance(columns, BadRowError):
                raise columns
            rows.append(accept(where, columns))
        except BadRowError as bad:
            if max_bad_share is None:
                raise
            first = first or bad
            skipped[bad.reason] = skipped.get(bad.reason, 0) + 1
    bad_rows = sum(skipped.values())
    total = len(rows) + bad_rows
    if max_bad_share is not None and bad_rows > max_bad_share * total:
        raise DataError(
            f"{source}: {bad_rows} of {total} rows cannot be used, more than data.max_bad_share = "
            f"{max_bad_share:g} allows: {counted(skipped)}; the first: {first}"
        )
    if not rows:
        raise DataError(f"{source}: has no rows" + (f" that can be used; {first}" if first else ""))
    return rows, skipped
