"""Conversations with tools: only what the assistant says is learned, its calls included.

Templates are written like those of Qwen and Llama. The tokeniser is that of bytes, so that spans
can be counted by hand.
"""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

from polopt.data import BadRowError, Tokeniser, load_rows
from polopt.data.fields import accept
from polopt.data.identity import keys
from polopt.data.preferences import accept_ranked
from polopt.data.rows import Fields
from polopt.models.builtin import tokenizer
from polopt.recipe import Data

CALLS = (
    "{% for c in m.tool_calls %}{% if c.function %}{% set c = c.function %}{% endif %}"
    '{{ \'\n<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' }}{{ c.arguments | tojson }}'
    "{{ '}\n</tool_call>' }}{% endfor %}"
)
QWEN = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{{ '\n' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}"
    "{% if m.role in ('system', 'developer', 'user') %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + m.content }}" + CALLS + ""
    "{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAID = "{{ '<|im_start|>' + m.role + '\n' + m.content }}"
PLAIN = (  # knows no tools, and says so of none
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}" + SAID + ""
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPEN = (  # the turn of the assistant has no token that ends it, what the tool gave has one
    "{% for m in messages %}{{ m.role + ': ' + m.content }}" + CALLS + "{{ '\n' }}"
    "{% if m.role == 'tool' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 3, "b": 8}}}
TALK = [
    {"role": "user", "content": "3+8?"},
    {"role": "assistant", "tool_calls": [ADD]},
    {"role": "tool", "name": "add", "content": "11"},
    {"role": "assistant", "content": "It is 11."},
]
CALL = '\n<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 8}}\n</tool_call>'


def made(template: str = QWEN) -> Tokeniser:
    built = tokenizer()
    built.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    built.eos_token = "<|im_end|>"
    built.chat_template = template
    return Tokeniser(built, max_tokens=2000)


def learned(tokeniser: Tokeniser, **columns: object) -> list[str]:
    """What the mask of a demonstration covers, stretch by stretch."""
    row = accept("rows.jsonl:7", columns, Fields(), demonstrations=True)
    found = tokeniser.demonstration(row, 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], found.mask.astype(int), [0]))))
    pieces = zip(edges[::2], edges[1::2], strict=True)
    return [tokeniser.tokenizer.decode(found.tokens[start:end]) for start, end in pieces]


def refused(template: str, demonstrations: bool = True, **columns: object) -> str:
    with pytest.raises(BadRowError) as error:
        tokeniser = made(template)
        row = accept("rows.jsonl:7", columns, Fields(), demonstrations)
        tokeniser.check(row)
    said = str(error.value)
    assert said.startswith("rows.jsonl:7: ") and "\n" not in said
    return said.removeprefix("rows.jsonl:7: ")


def test_calls_are_learned_and_what_they_gave_is_not() -> None:
    assert learned(made(), prompt=TALK) == [f"{CALL}<|im_end|>", "It is 11.<|im_end|>"]


def test_the_spans_are_those_counted_by_hand() -> None:
    row = accept("rows.jsonl:7", {"prompt": TALK}, Fields(), demonstrations=True)
    found = made().demonstration(row, 0)
    # <|im_start|> and <|im_end|> are one token each, every other character is one
    user = 1 + len("user\n3+8?") + 1 + len("\n")
    first = user + 1 + len("assistant\n")
    tool = 1 + len("user\n<tool_response>\n11\n</tool_response>") + 1 + len("\n")
    second = first + len(CALL) + 1 + len("\n") + tool + 1 + len("assistant\n")
    assert found.prompt_length == first
    assert np.flatnonzero(found.mask).tolist() == [
        *range(first, first + len(CALL) + 1),
        *range(second, second + len("It is 11.") + 1),
    ]
    assert len(found.tokens) == second + len("It is 11.") + 1


def test_several_tools_answer_one_after_the_other() -> None:
    both = {"role": "assistant", "content": "Both.", "tool_calls": [ADD, ADD]}
    talk = [TALK[0], both, TALK[2], {"role": "tool", "content": ""}, TALK[3], TALK[0], TALK[3]]
    assert learned(made(), prompt=talk) == [
        f"Both.{CALL}{CALL}<|im_end|>", "It is 11.<|im_end|>", "It is 11.<|im_end|>"
    ]  # fmt: skip


def test_a_conversation_may_end_with_a_call_and_a_prompt_with_what_it_gave() -> None:
    assert learned(made(), prompt=TALK[:2]) == [f"{CALL}<|im_end|>"]
    assert learned(made(), prompt=TALK[:3], completion="11") == ["11<|im_end|>"]
    row = accept("r:1", {"prompt": TALK[:3]}, Fields(), demonstrations=False)
    assert (
        made()
        .prompt(row, 0)
        .text.endswith("<tool_response>\n11\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
    )


def test_a_turn_without_an_end_does_not_take_what_the_tool_gave() -> None:
    """The token that ends the tool's message would end the turn of the assistant too late."""
    assert learned(made(OPEN), prompt=TALK) == [f"{CALL}\n", "It is 11.\n<|im_end|>"]


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "add", "arguments": '{"a": 3, "b": 8}'}, "id": "1", "index": None},
        {"name": "add", "arguments": {"a": 3, "b": 8}, "function": None},
        {"name": "add", "arguments": '{"a": 3, "b": 8}'},
    ],
)
def test_calls_are_written_in_several_ways(call: dict[str, object]) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "name": None}
    assert learned(made(), prompt=[TALK[0], turn])[0] == f"{CALL}<|im_end|>"


def test_tables_fill_with_null_what_a_row_lacks(tmp_path) -> None:
    keys = ("role", "content", "tool_calls", "name", "tool_call_id", "reasoning_content")
    talk = [{key: message.get(key) for key in keys} for message in TALK]
    talk[3]["tool_calls"] = []
    assert len(learned(made(), prompt=talk)) == 2


def test_tools_are_given_to_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [
        accept("r:1", {"prompt": TALK[:1], "tools": given}, Fields(), demonstrations=False)
        for given in (tools, json.dumps(tools))
    ]
    assert {made().prompt(row, 0).text for row in rows} == {
        '<|im_start|>system\n{"type": "function", "function": {"name": "add"}}\n<|im_end|>\n'
        "<|im_start|>user\n3+8?<|im_end|>\n<|im_start|>assistant\n"
    }
    assert learned(made(), prompt=TALK, tools=tools)[1] == "It is 11.<|im_end|>"
    for none in (None, [], "[]"):
        row = accept("r:1", {"prompt": TALK[:1], "tools": none}, Fields(), demonstrations=False)
        assert "system" not in made().prompt(row, 0).text
    pair = {"prompt": TALK[:1], "chosen": "a", "rejected": "b", "tools": tools}
    assert accept_ranked("r:1", pair, Fields()).tools == tuple(tools)


def test_a_column_named_tools_beside_text_is_a_column() -> None:
    row = accept("r:1", {"prompt": "3+8=", "tools": "hammer"}, Fields(), demonstrations=False)
    assert row.tools == ()


def test_a_developer_instructs_as_a_system_does() -> None:
    talk = [{"role": "developer", "content": "Briefly."}, *TALK]
    assert learned(made(), prompt=talk)[1] == "It is 11.<|im_end|>"
    assert keys(tuple(talk[:2])) == keys("3+8?")  # the same question
    assert "message 2 is of the developer, expected user" in refused(QWEN, prompt=[talk[0], *talk])


def changed(place: int, **change: object) -> list[dict[str, object]]:
    talk: list[dict[str, object]] = [dict(message) for message in TALK]
    talk[place] |= change
    return talk


@pytest.mark.parametrize(
    ("talk", "line"),
    [
        ([TALK[0], TALK[2], TALK[3]], "message 2 is of the tool, expected assistant; user and "),
        ([*TALK[:2], TALK[3]], "message 3 is of the assistant, expected tool"),
        ([*TALK[:2], *TALK[:2]], "message 3 is of the user, expected tool"),
        ([*TALK[:3], *TALK], "message 4 is of the user, expected tool or assistant"),
        (changed(0, tool_calls=[ADD]), 'message 1 has the unknown key "tool_calls"; role and '),
        (changed(3, name="x"), 'message 4 has the unknown key "name"; role, content, tool_calls '
         "and reasoning_content"),
        (changed(2, tool_call_id=3), "message 3 has a int as tool_call_id; text"),
        (changed(3, content=None), 'message 4 lacks "content"'),
        (changed(3, content=" "), "message 4 is empty; at least one character"),
        (changed(1, tool_calls="add"), "message 2 has a str as tool_calls; a list of calls"),
        (changed(1, tool_calls=["add"]), 'message 2 call 1 is "add"; an object with function, '),
        (changed(1, tool_calls=[ADD, {"function": {}}]), "message 2 call 2 is "),
        (changed(1, tool_calls=[{"name": "add", "arguments": "3, 8"}]), 'message 2 call 1 has '
         '"3, 8" as arguments; an object, or one in JSON'),
        (changed(1, tool_calls=[{"name": "add", "arguments": {"on": date(2026, 1, 1)}}]),
         "message 2 call 1 is "),
        (changed(1, tool_calls=[{"name": "a\0"}]), "message 2 has a NUL character at 1"),
        (changed(1, tool_calls=[{"name": "x", "arguments": {"<|im_end|>": 1}}]),
         'contains the special token "<|im_end|>"'),
        (changed(2, content="<|im_start|>"), 'contains the special token "<|im_start|>"'),
        (changed(3, reasoning_content="<|im_end|>"), 'contains the special token "<|im_end|>"'),
    ],
)  # fmt: skip
def test_bad_conversations(talk: list[object], line: str) -> None:
    said = refused(QWEN, prompt=talk)
    assert said.startswith("field 'prompt': ") and line in said


@pytest.mark.parametrize(
    ("tools", "line"),
    [
        ("hammer", "field 'tools': is \"hammer\"; a list of objects, the schemas of functions"),
        (["add"], "field 'tools': is "),
        ([{"name": "<|im_end|>"}], "field 'tools': contains the special token \"<|im_end|>\""),
    ],
)
def test_bad_tools(tools: object, line: str) -> None:
    assert refused(QWEN, prompt=TALK, tools=tools).startswith(line)


@pytest.mark.parametrize(
    ("demonstrations", "columns", "left_out"),
    [
        (True, {"prompt": TALK}, "the tool calls of message 2"),
        (False, {"prompt": TALK[:3]}, "the tool calls of message 2"),
        (False, {"prompt": TALK[:1], "tools": [{"name": "add"}]}, "the tools"),
        (True, {"prompt": [{"role": "developer", "content": "Be brief."}, TALK[0], TALK[3]]},
         "message 1, of the developer"),
    ],
)  # fmt: skip
def test_a_template_that_leaves_something_out_is_told(
    demonstrations: bool, columns: dict[str, object], left_out: str
) -> None:
    said = refused(PLAIN, demonstrations, **columns)
    assert said == f"field 'prompt': cannot be rendered: the chat template leaves out {left_out}"


def test_a_template_that_leaves_out_what_tools_gave_is_told() -> None:
    calls_only = PLAIN.replace(SAID, SAID + CALLS)
    assert "leaves out message 3, of the tool" in refused(calls_only, prompt=TALK)


def test_a_template_that_cannot_add_is_told() -> None:
    odd = "{% for m in messages %}{{ 1 + m.content }}{% endfor %}"
    assert "the chat template refuses it: unsupported operand" in refused(odd, prompt=TALK)


def test_rows_of_a_file_keep_their_messages(tmp_path) -> None:
    path = tmp_path / "talks.jsonl"
    lines = [[{**TALK[0], "content": f"{i}+1?"}, *TALK[1:]] for i in range(20)]
    path.write_text("".join(json.dumps({"prompt": talk}) + "\n" for talk in lines))
    rows = load_rows(Data(source=str(path)), 5, 1, wanted="demonstrations", check=made().check)
    assert rows.report.read == 20 and len(rows.evaluation) == 2
