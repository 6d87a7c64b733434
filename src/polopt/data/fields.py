"""From columns to a row: the fields of a prompt and its responses, as text or as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polopt.data.messages import check_string, check_turns, message, tools_of
from polopt.data.rows import BadRowError, Columns, Fields, Message, Row, Text
from polopt.errors import did_you_mean
from polopt.recipe import shown

ASKING = ("user", "tool")  # roles of the last turn of a prompt
DEEPEST = 100  # levels of lists and objects in a row that can be copied and recorded


def accept(where: str, columns: Columns, fields: Fields, demonstrations: bool) -> Row:
    """A checked row from its columns.

    A prompt is text, or chat messages that end with the user's turn. A demonstration is text after
    text, text or messages after messages, or one whole conversation in the prompt field; its
    prompt then ends before the first turn of the assistant.

    Args:
        where: place of the row, for messages.
        columns: the row as it was read.
        fields: the columns to read.
        demonstrations: whether the row must hold a demonstration.

    Raises:
        BadRowError: which field is wrong, how, and what is allowed.
    """
    check_depth(where, columns)
    prompt, completion = text_of(where, columns, fields.prompt), None
    if not demonstrations:
        if not isinstance(prompt, str):
            check_turns(where, fields.prompt, prompt, last=ASKING)
    elif not isinstance(prompt, str) and fields.completion not in columns:
        prompt, completion = _divided(where, fields.prompt, prompt)
    else:
        completion = text_of(where, columns, fields.completion)
        completion = fitting(where, fields, prompt, completion, fields.completion)
    tools = () if isinstance(prompt, str) else tools_of(where, columns)
    return Row(where, prompt, completion, columns, fields, tools=tools)


def fitting(where: str, fields: Fields, prompt: Text, completion: Text, name: str) -> Text:
    """A completion in the form of its prompt: text after text, messages after messages.

    Raises:
        BadRowError: messages after text, or turns out of order.
    """
    if isinstance(prompt, str):
        if not isinstance(completion, str):
            detail = "is a list of messages; text, as the prompt is text"
            raise BadRowError(where, "wrong type", detail, name)
        return completion
    check_turns(where, fields.prompt, prompt, last=ASKING)
    if isinstance(completion, str):
        completion = ({"role": "assistant", "content": completion},)
    check_turns(where, name, (*prompt, *completion), last=("assistant",))
    return completion


def text_of(where: str, columns: Columns, name: str) -> Text:
    """A field as text or as messages; their turns are not yet checked."""
    return text_or_messages(where, name, value_of(where, columns, name))


def value_of(where: str, columns: Columns, name: str, how: str = "") -> Any:  # noqa: ANN401
    """The value of a column.

    Raises:
        BadRowError: it is missing; names the nearest one, or all of them and ``how`` to give it.
    """
    if name not in columns:
        known = f"columns: {', '.join(columns) or 'none'}{how}"
        detail = f"is missing; {did_you_mean(name, columns, known)}"
        raise BadRowError(where, "missing field", detail, name)
    return columns[name]


def check_answer(where: str, columns: Columns, name: str) -> None:
    """Check that a row has a right answer, as text or as a number.

    Raises:
        BadRowError: it is missing, empty or something else.
    """
    value = value_of(where, columns, name)
    if isinstance(value, str) and not value.strip():
        raise BadRowError(where, "empty field", "is empty; at least one character", name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind, reason = ("null", "null") if value is None else (shown(value), "wrong type")
        raise BadRowError(where, reason, f"is {kind}; text or a number", name)


def text_or_messages(where: str, name: str, value: Any, part: str = "") -> Text:  # noqa: ANN401
    """A value as text or as messages; ``part`` names the value in errors, if a list has several."""
    if isinstance(value, str):
        check_string(where, name, value, part)
        if not value.strip():
            raise BadRowError(where, "empty field", f"{part}is empty; at least one character", name)
        return value
    if not isinstance(value, list):
        kind, reason = ("null", "null") if value is None else (shown(value), "wrong type")
        raise BadRowError(where, reason, f"{part}is {kind}; text or a list of chat messages", name)
    if not value:
        raise BadRowError(
            where, "empty field", f"{part}is an empty list; at least one message", name
        )
    return tuple(message(where, name, number, item, part) for number, item in enumerate(value, 1))


def check_depth(where: str, columns: Columns) -> None:
    """Refuse a row that is no object, or nested too deeply to be copied and recorded."""
    if not isinstance(columns, dict) or _deeper_than(columns, DEEPEST):
        detail = f"is nested too deeply; at most {DEEPEST} levels"
        raise BadRowError(where, "nested too deeply", detail)


def _divided(where: str, name: str, messages: Sequence[Message]) -> tuple[Text, Text]:
    """A conversation as what comes before the first turn of the assistant, and the rest."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        detail = "has no turn of the assistant to learn from; at least one, at the end"
        raise BadRowError(where, "no assistant turn", detail, name)
    check_turns(where, name, messages, last=("assistant",))
    first = roles.index("assistant")
    return tuple(messages[:first]), tuple(messages[first:])


def _deeper_than(value: Any, levels: int) -> bool:  # noqa: ANN401
    """Whether lists and objects are nested in more than ``levels``; without recursion."""
    layer: list[Any] = [value]
    for _ in range(levels):
        inner = [item.values() if isinstance(item, dict) else item for item in layer]
        layer = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not layer:
            return False
    return True
