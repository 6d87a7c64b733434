"""From columns to a row: the fields of a prompt and its responses, as text or as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polopt.data.rows import BadRowError, Columns, Fields, Message, Row, Text
from polopt.errors import did_you_mean
from polopt.recipe import shown

ROLES = ("system", "user", "assistant")
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
    prompt = text_of(where, columns, fields.prompt)
    if not demonstrations:
        if not isinstance(prompt, str):
            check_turns(where, fields.prompt, prompt, last="user")
        return Row(where, prompt, None, columns, fields)
    if not isinstance(prompt, str) and fields.completion not in columns:
        prompt, completion = _divided(where, fields.prompt, prompt)
        return Row(where, prompt, completion, columns, fields)
    completion = text_of(where, columns, fields.completion)
    return Row(
        where,
        prompt,
        fitting(where, fields, prompt, completion, fields.completion),
        columns,
        fields,
    )


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
    check_turns(where, fields.prompt, prompt, last="user")
    if isinstance(completion, str):
        completion = ({"role": "assistant", "content": completion},)
    check_turns(where, name, (*prompt, *completion), last="assistant")
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
        _check_string(where, name, value, part)
        return value
    if not isinstance(value, list):
        kind, reason = ("null", "null") if value is None else (shown(value), "wrong type")
        raise BadRowError(where, reason, f"{part}is {kind}; text or a list of chat messages", name)
    if not value:
        raise BadRowError(
            where, "empty field", f"{part}is an empty list; at least one message", name
        )
    return tuple(_message(where, name, number, item, part) for number, item in enumerate(value, 1))


def check_depth(where: str, columns: Columns) -> None:
    """Refuse a row that is no object, or nested too deeply to be copied and recorded."""
    if not isinstance(columns, dict) or _deeper_than(columns, DEEPEST):
        detail = f"is nested too deeply; at most {DEEPEST} levels"
        raise BadRowError(where, "nested too deeply", detail)


def _check_string(where: str, name: str, value: str, part: str = "") -> None:
    if not value.strip():
        raise BadRowError(where, "empty field", f"{part}is empty; at least one character", name)
    if "\0" in value:
        detail = f"{part}has a NUL character at {value.index(chr(0))}; text without one"
        raise BadRowError(where, "NUL character", detail, name)
    try:
        value.encode()
    except UnicodeEncodeError:
        detail = f"{part}has half of a surrogate pair (\\ud800 to \\udfff); text without one"
        raise BadRowError(where, "lone surrogate", detail, name) from None


def _message(where: str, name: str, number: int, item: Any, inside: str = "") -> Message:  # noqa: ANN401
    """One message, with exactly a role and a content; keys that are null count as absent."""
    part = f"{inside}message {number} "
    if not isinstance(item, dict):
        detail = f"{part}is of type {type(item).__name__}; an object with role and content"
        raise BadRowError(where, "bad message", detail, name)
    given = {key: value for key, value in item.items() if value is not None}
    if set(given) != {"role", "content"}:
        odd = sorted({"role", "content"} - set(given)) or sorted(set(given) - {"role", "content"})
        problem = "lacks" if odd[0] not in given else "has the unknown key"
        detail = f"{part}{problem} {shown(odd[0])}; role and content"
        raise BadRowError(where, "bad message", detail, name)
    if given["role"] not in ROLES:
        detail = f"{part}has the unknown role {shown(given['role'])}; {', '.join(ROLES)}"
        raise BadRowError(where, "unknown role", detail, name)
    if not isinstance(given["content"], str):
        detail = f"{part}has a {type(given['content']).__name__} as content; text"
        raise BadRowError(where, "wrong type", detail, name)
    _check_string(where, name, given["content"], part)
    return given


def _divided(where: str, name: str, messages: Sequence[Message]) -> tuple[Text, Text]:
    """A conversation as what comes before the first turn of the assistant, and the rest."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        detail = "has no turn of the assistant to learn from; at least one, at the end"
        raise BadRowError(where, "no assistant turn", detail, name)
    check_turns(where, name, messages, last="assistant")
    first = roles.index("assistant")
    return tuple(messages[:first]), tuple(messages[first:])


def check_turns(where: str, name: str, messages: Sequence[Message], last: str) -> None:
    """Refuse messages unless user and assistant alternate after an optional system message."""
    roles = [message["role"] for message in messages]
    start = int(roles[0] == "system")
    if "user" not in roles:
        raise BadRowError(where, "no user turn", "has no turn of the user; at least one", name)
    for place, role in enumerate(roles[start:]):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            detail = f"message {start + place + 1} is of the {role}, expected {expected}; "
            detail += "user and assistant in turns, after at most one system message"
            raise BadRowError(where, "roles out of turn", detail, name)
    if roles[-1] != last:
        detail = f"ends with a turn of the {roles[-1]}; the {last} must have the last turn"
        raise BadRowError(where, "wrong last turn", detail, name)


def _deeper_than(value: Any, levels: int) -> bool:  # noqa: ANN401
    """Whether lists and objects are nested in more than ``levels``; without recursion."""
    layer: list[Any] = [value]
    for _ in range(levels):
        inner = [item.values() if isinstance(item, dict) else item for item in layer]
        layer = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not layer:
            return False
    return True
