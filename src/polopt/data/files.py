"""Rows of local .jsonl, .csv and .parquet files, each with its place: ``prompts.jsonl:12``."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as arrow
import pyarrow.parquet as parquet

from polopt.data.rows import BadRowError, Read
from polopt.errors import DataError, one_line
from polopt.places import no_file
from polopt.recipe import shown


def read(name: str, field: str = "data.source") -> Iterator[Read]:
    """The rows of a file in their order; a row that cannot be read comes as a ``BadRowError``.

    Text is UTF-8, with or without a byte order mark, lines end in LF or CRLF, and lines of
    nothing but whitespace hold no row. Nothing is repaired.

    Args:
        name: the path.
        field: of the recipe that names it, for messages.

    Raises:
        DataError: the file is missing, unreadable, of another kind, or damaged as a whole.
    """
    path = Path(name).expanduser()
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{field}: {name!r} is no data file; allowed: {', '.join(READERS)}")
    if not path.is_file():
        raise DataError(f"{field}: {name!r} {no_file(path)}")
    try:
        yield from reader(path)
    except PermissionError as error:
        raise DataError(f"{field}: {name!r} cannot be opened: {error.strerror}") from error


def _jsonl(path: Path) -> Iterator[Read]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text.strip():
                where = f"{path}:{number}"
                yield where, _json_object(where, text)


def _json_object(where: str, line: bytes) -> dict[str, Any] | BadRowError:
    """One line as an object, or what is wrong with it."""
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
        if b"\\u" in line:  # an escape may be half of a surrogate pair, which UTF-8 cannot hold
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return BadRowError(where, "bad UTF-8", f"byte {error.start} is not UTF-8; save it as UTF-8")
    except UnicodeEncodeError:
        return BadRowError(
            where, "lone surrogate", "has half of a surrogate pair (\\ud800 to \\udfff)"
        )
    except RecursionError:
        return BadRowError(where, "nested too deeply", "is nested too deeply")
    except json.JSONDecodeError as error:
        torn = "" if line.endswith(b"\n") else " (the last line, perhaps torn)"
        detail = f"is not JSON{torn}: {error.msg} at column {error.colno}; one object on each line"
        return BadRowError(where, "invalid JSON", detail)
    except ValueError as error:  # NaN, Infinity, or an integer of more digits than Python reads
        return BadRowError(where, "invalid JSON", f"is not JSON: {error}; one object on each line")
    if not isinstance(value, dict):
        kind = type(value).__name__
        return BadRowError(
            where, "not an object", f"is of type {kind}; one JSON object on each line"
        )
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _csv(path: Path) -> Iterator[Read]:
    line = 1
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses cells beyond 128 KiB
    try:
        # bytes that are not UTF-8 become surrogates, so that only their own row is bad
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, None)
            if header is None:
                return
            _check_header(path, header)
            line = lines.line_num + 1
            for cells in lines:
                if cells:
                    where = f"{path}:{line}"
                    yield where, _cells(where, header, cells)
                line = lines.line_num + 1
    except csv.Error as error:  # a quote that is never closed: where rows end is unknown from here
        raise DataError(f"{path}:{line}: is not CSV: {error}; close every quote") from error
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{path}:1: two columns have the same name, {shown(twice[0])}")
    if isinstance(_cells(f"{path}:1", header, header), BadRowError):
        raise DataError(f"{path}:1: the header is not UTF-8; save it as UTF-8")


def _cells(where: str, header: list[str], cells: list[str]) -> dict[str, Any] | BadRowError:
    if len(cells) != len(header):
        detail = f"has {len(cells)} cells; the header has {len(header)}"
        return BadRowError(where, "wrong number of cells", detail)
    for name, cell in zip(header, cells, strict=True):
        try:
            cell.encode()
        except UnicodeEncodeError:
            return BadRowError(where, "bad UTF-8", "is not UTF-8; save it as UTF-8", name)
    return dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Read]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for index in range(batch.num_rows):
                    number += 1
                    where = f"{path}:{number}"
                    yield where, _record(where, batch, index)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}:{number + 1}: cannot be read as Parquet: {one_line(error)}"
        ) from error


def _record(
    where: str,
    batch: Any,  # noqa: ANN401 (pyarrow is not typed)
    index: int,
) -> dict[str, Any] | BadRowError:
    record: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = column[index].as_py()
        except UnicodeDecodeError:
            return BadRowError(where, "bad UTF-8", "is not UTF-8; save it as UTF-8", name)
    return record


READERS: dict[str, Callable[[Path], Iterator[Read]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
