"""From columns to ranked responses: a pair, or a ranking of several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from polopt.data.fields import check_depth, fitting, text_of, text_or_messages, value_of
from polopt.data.messages import tools_of
from polopt.data.rows import BadRowError, Columns, Fields, Messages, Ranked, Row, Text
from polopt.recipe import shown

HOW = "data.completions_field"


def accept_ranked(where: str, columns: Columns, fields: Fields) -> Row:
    """A checked row of preferences from its columns.

    A pair is a prompt with a chosen and a rejected response; where both are whole conversations
    and there is no prompt column, the prompt is the messages with which both begin. A ranking is a
    prompt with a list of responses, best first or with their ranks.

    Args:
        where: place of the row, for messages.
        columns: the row as it was read.
        fields: the columns to read.

    Raises:
        BadRowError: which field is wrong, how, and what is allowed; also where no response is
            preferred to another, or one is preferred to itself.
    """
    check_depth(where, columns)
    if fields.completions is not None:
        prompt, found = text_of(where, columns, fields.prompt), _ranking(where, columns, fields)
    else:
        prompt, found = _pair(where, columns, fields)
    ranked = tuple(
        one._replace(completion=fitting(where, fields, prompt, one.completion, one.field))
        for one in found
    )
    _check_order(where, ranked)
    tools = () if isinstance(prompt, str) else tools_of(where, columns)
    return Row(where, prompt, None, columns, fields, ranked, tools)


def _pair(where: str, columns: Columns, fields: Fields) -> tuple[Text, list[Ranked]]:
    """Prompt, chosen and rejected; the prompt may be implied by two conversations."""
    how = f"; a pair has {fields.chosen!r} and {fields.rejected!r}, a ranking {HOW}"
    chosen, rejected = (
        text_or_messages(where, name, value_of(where, columns, name, how))
        for name in (fields.chosen, fields.rejected)
    )
    if fields.prompt in columns or isinstance(chosen, str) or isinstance(rejected, str):
        prompt = text_of(where, columns, fields.prompt)
    else:
        prompt = _common(where, fields, chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return prompt, [Ranked(chosen, 0, fields.chosen), Ranked(rejected, 1, fields.rejected)]


def _common(where: str, fields: Fields, chosen: Messages, rejected: Messages) -> Messages:
    """The messages with which both conversations begin."""
    both = zip(chosen, rejected, strict=False)
    common = [one for one, _ in itertools.takewhile(lambda two: two[0] == two[1], both)]
    if not common:
        detail = f"has no message in common with {fields.chosen!r} that could be the prompt"
        raise BadRowError(where, "no common prompt", detail, fields.rejected)
    if len(common) in (len(chosen), len(rejected)):
        detail = f"and {fields.chosen!r} do not differ in a response"
        raise BadRowError(where, "equal responses", detail, fields.rejected)
    return tuple(common)


def _ranking(where: str, columns: Columns, fields: Fields) -> list[Ranked]:
    name = fields.completions
    assert name is not None
    items = value_of(where, columns, name)
    if not isinstance(items, list) or len(items) < 2:
        kind = f"a list of {len(items)}" if isinstance(items, list) else shown(items)
        raise BadRowError(where, "no ranking", f"is {kind}; a list of at least two responses", name)
    texts = [
        text_or_messages(where, name, item, f"response {number} ")
        for number, item in enumerate(items, 1)
    ]
    ranks = range(len(texts)) if fields.ranks is None else _ranks(where, columns, fields.ranks)
    if len(ranks) != len(texts):
        detail = f"has {len(ranks)} ranks for the {len(texts)} responses of {name!r}"
        raise BadRowError(where, "wrong number of ranks", detail, fields.ranks)
    return [Ranked(one, rank, name) for one, rank in zip(texts, ranks, strict=True)]


def _ranks(where: str, columns: Columns, name: str) -> list[float]:
    ranks = value_of(where, columns, name)
    if not isinstance(ranks, list) or not all(map(_is_number, ranks)):
        detail = f"is {shown(ranks)}; a list of numbers, lower is better"
        raise BadRowError(where, "wrong type", detail, name)
    return ranks


def _is_number(value: Any) -> bool:  # noqa: ANN401
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_order(where: str, ranked: Sequence[Ranked]) -> None:
    """Refuse a row where no response is preferred to another, or one to itself."""
    if len({one.rank for one in ranked}) == 1:
        detail = f"has {len(ranked)} responses of the same rank; at least one that is better"
        raise BadRowError(where, "no preference", detail, ranked[0].field)
    for one, other in itertools.combinations(ranked, 2):
        if one.rank != other.rank and one.completion == other.completion:
            detail = (
                f"is the same as {one.field!r}"
                if one.field != other.field
                else "has the same response at two ranks"
            )
            raise BadRowError(where, "equal responses", detail, other.field)
