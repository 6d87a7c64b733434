"""Rows of a data set on the Hugging Face hub, or of a local directory in the same layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import cast

from polopt.data.rows import Columns, Read
from polopt.errors import DataError, one_line

PREFIX = "hub:"
# hub:openai/gsm8k, hub:openai/gsm8k:main (a configuration), hub:openai/gsm8k:main[test] (a split)
SOURCE = re.compile(r"hub:(?P<name>[^:\[\]]+)(:(?P<configuration>[^:\[\]]+))?(\[(?P<split>.+)\])?")


def read(source: str, split: str, field: str = "data.source") -> Iterator[Read]:
    """The rows of ``hub:NAME``, ``hub:NAME:CONFIGURATION`` or either followed by ``[SPLIT]``.

    Args:
        source: as in the recipe.
        split: used where the source names none.
        field: of the recipe that names it, for messages.

    Raises:
        DataError: the data set cannot be loaded; one line with the reason.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    match = SOURCE.fullmatch(source)
    if match is None:
        allowed = "hub:NAME, hub:NAME:CONFIGURATION, or either followed by [SPLIT]"
        raise DataError(f"{field}: {source!r} is not allowed; {allowed}")
    try:
        # data sets are read from files: no code of a repository is run
        data = load_dataset(match["name"], match["configuration"], split=match["split"] or split)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{field}: {source!r} cannot be loaded: {one_line(error)}") from error
    for number, columns in enumerate(cast("Iterable[Columns]", data), 1):
        yield f"{source}:{number}", columns
