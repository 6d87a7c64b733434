"""Chat messages of a row: who says what, which tools are called, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polopt.data.identity import INSTRUCTIONS
from polopt.data.rows import BadRowError, Columns, Message, Tools
from polopt.recipe import shown

ROLES: Mapping[str, Sequence[str]] = {  # and the keys that a message may have beside role, content
    "system": (),
    "developer": (),
    "user": (),
    "assistant": ("tool_calls", "reasoning_content"),
    "tool": ("name", "tool_call_id"),
}
TOOLS = "tools"  # column of the functions that the assistant may call
CALL = "an object with function, which has a name and arguments, as JSON can hold it"


def message(where: str, name: str, number: int, item: Any, inside: str = "") -> Message:  # noqa: ANN401
    """One message: role, content, and what else its role may have; null counts as absent.

    A turn that calls tools need not say anything: its content is then empty. Arguments of a call
    that are an object in JSON, as the API of OpenAI has them, become the object, as templates
    expect them.

    Raises:
        BadRowError: what is wrong with it, and what is allowed.
    """
    part = f"{inside}message {number} "
    if not isinstance(item, dict):
        detail = f"{part}is of type {type(item).__name__}; an object with role and content"
        raise BadRowError(where, "bad message", detail, name)
    given = _present(item)
    role = given.get("role", "user")
    if not (isinstance(role, str) and role in ROLES):
        detail = f"{part}has the unknown role {shown(role)}; {', '.join(ROLES)}"
        raise BadRowError(where, "unknown role", detail, name)
    calls = "tool_calls" in given and "tool_calls" in ROLES[role]
    if calls:
        given = {"content": "", **given}
        given["tool_calls"] = _calls(where, name, part, given["tool_calls"])
    _check_keys(where, name, part, given, ("role", "content", *ROLES[role]))
    for text in strings(given):
        check_string(where, name, text, part)
    if not (calls or role == "tool" or given["content"].strip()):
        raise BadRowError(where, "empty field", f"{part}is empty; at least one character", name)
    return given


def check_string(where: str, name: str, value: str, part: str = "") -> None:
    """Refuse text that tokenisers or files could not hold; it may be empty."""
    if "\0" in value:
        detail = f"{part}has a NUL character at {value.index(chr(0))}; text without one"
        raise BadRowError(where, "NUL character", detail, name)
    try:
        value.encode()
    except UnicodeEncodeError:
        detail = f"{part}has half of a surrogate pair (\\ud800 to \\udfff); text without one"
        raise BadRowError(where, "lone surrogate", detail, name) from None


def check_turns(where: str, name: str, messages: Sequence[Message], last: Sequence[str]) -> None:
    """Refuse messages out of turn.

    After at most one instruction (system or developer), user and assistant alternate; a turn of the
    assistant that calls tools is followed by what they gave, in one or more messages.

    Args:
        where: place of the row, for messages.
        name: the field, for messages.
        messages: the conversation from its beginning.
        last: roles that may have the last turn.

    Raises:
        BadRowError: which message is of whom, and who was expected.
    """
    roles = [one["role"] for one in messages]
    if "user" not in roles:
        raise BadRowError(where, "no user turn", "has no turn of the user; at least one", name)
    start = int(roles[0] in INSTRUCTIONS)
    expected: Sequence[str] = ("user",)
    for place, one in enumerate(messages[start:], start + 1):
        if one["role"] not in expected:
            detail = f"message {place} is of the {one['role']}, expected {' or '.join(expected)}; "
            detail += "user and assistant in turns, after at most one system or developer message, "
            detail += "and tools after their calls"
            raise BadRowError(where, "roles out of turn", detail, name)
        expected = _after(one)
    if roles[-1] not in last:
        detail = f"ends with a turn of the {roles[-1]}; the {' or the '.join(last)} must have the "
        raise BadRowError(where, "wrong last turn", f"{detail}last turn", name)


def tools_of(where: str, columns: Columns) -> Tools:
    """The functions that a conversation may call: the column ``tools``, a list or one in JSON.

    Raises:
        BadRowError: it is no list of objects.
    """
    tools = columns.get(TOOLS) or ()
    tools = _json(tools) if isinstance(tools, str) else tools
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        detail = f"is {shown(columns[TOOLS])}; a list of objects, the schemas of functions"
        raise BadRowError(where, "bad tools", detail, TOOLS)
    for text in strings(tools):
        check_string(where, TOOLS, text)
    return tuple(tools)


def strings(value: Any) -> Iterator[str]:  # noqa: ANN401
    """All text in a value, keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def _present(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is not null, which is how tables fill what a row lacks; no calls are none."""
    found = {key: value for key, value in item.items() if value is not None}
    if found.get("tool_calls") == []:
        del found["tool_calls"]
    return found


def _check_keys(
    where: str, name: str, part: str, given: Mapping[str, Any], allowed: Sequence[str]
) -> None:
    """Refuse a message that lacks role or content, or has what is not allowed or no text."""
    choice = f"{', '.join(allowed[:-1])} and {allowed[-1]}"
    for key in ("role", "content", *given):
        if key not in given or key not in allowed:
            problem = "lacks" if key not in given else "has the unknown key"
            raise BadRowError(where, "bad message", f"{part}{problem} {shown(key)}; {choice}", name)
        if key != "tool_calls" and not isinstance(given[key], str):
            detail = f"{part}has a {type(given[key]).__name__} as {key}; text"
            raise BadRowError(where, "wrong type", detail, name)


def _after(one: Message) -> Sequence[str]:
    """The roles that may have the turn after a message."""
    match one["role"]:
        case "user":
            return ("assistant",)
        case "tool":
            return ("tool", "assistant")
        case _:
            return ("tool",) if "tool_calls" in one else ("user",)


def _calls(where: str, name: str, part: str, calls: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """The calls of a turn, their arguments as objects."""
    if not isinstance(calls, list):
        detail = f"{part}has a {type(calls).__name__} as tool_calls; a list of calls"
        raise BadRowError(where, "bad tool call", detail, name)
    return [_call(where, name, f"{part}call {number} ", one) for number, one in enumerate(calls, 1)]


def _call(where: str, name: str, part: str, call: Any) -> dict[str, Any]:  # noqa: ANN401
    """One call, ``{"function": {"name", "arguments"}}`` or what is inside of that."""
    call = _present(call) if isinstance(call, dict) else call
    function = call.get("function", call) if isinstance(call, dict) else None
    is_call = isinstance(function, dict) and isinstance(function.get("name"), str)
    if function is None or not is_call or not _is_json(call):
        raise BadRowError(where, "bad tool call", f"{part}is {shown(call)}; {CALL}", name)
    arguments = function.get("arguments")
    arguments = _json(arguments) if isinstance(arguments, str) else arguments or {}
    if not isinstance(arguments, dict):
        detail = f"{part}has {shown(function['arguments'])} as arguments; an object, or one in JSON"
        raise BadRowError(where, "bad tool call", detail, name)
    whole = {**function, "arguments": arguments}
    return {**call, "function": whole} if "function" in call else whole


def _is_json(value: Any) -> bool:  # noqa: ANN401
    """Whether JSON can hold a value: a table may have dates."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _json(text: str) -> Any:  # noqa: ANN401
    """The value of a text in JSON; of other text, itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
