"""Every kind of bad row: told with its place and field, or skipped and counted, never repaired."""

from __future__ import annotations

import codecs
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polopt.data import BadRowError, load_rows
from polopt.errors import DataError
from polopt.recipe import Data

GOOD = [{"prompt": f"{i}+1=", "answer": str(i + 1), "completion": f">{i + 1}"} for i in range(40)]


def line(row):
    return json.dumps(row).encode() + b"\n"


GOOD_LINES = b"".join(map(line, GOOD))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chat(*messages):
    return line({"prompt": list(messages), "completion": ">1"})


def nested(depth):
    return b'{"prompt": "a", "x": ' + b"[" * depth + b"]" * depth + b"}\n"


# what stands in the line, why it is bad, and what is said after "FILE:41: "
BAD_LINES = {
    "torn": (b'{"prompt": "1+', "invalid JSON", "is not JSON (the last line, perhaps torn)"),
    "torn inside": (b'{"prompt": "1+\n', "invalid JSON", "is not JSON: Invalid control"),
    "two objects": (line(GOOD[0])[:-1] * 2 + b"\n", "invalid JSON", "is not JSON: Extra data"),
    "trailing comma": (b'{"prompt": "a",}\n', "invalid JSON", "is not JSON"),
    "single quotes": (b"{'prompt': 'a'}\n", "invalid JSON", "is not JSON"),
    "text": (b"hello\n", "invalid JSON", "is not JSON"),
    "raw nul": (b'{"prompt": "a\0"}\n', "invalid JSON", "is not JSON"),
    "only nul": (b"\0\0\0\n", "invalid JSON", "is not JSON"),
    "nan literal": (b'{"prompt": "a", "x": NaN}\n', "invalid JSON", "NaN is no JSON number"),
    "infinity": (b'{"prompt": "a", "x": -Infinity}\n', "invalid JSON", "-Infinity is no JSON"),
    "5000 digits": (b'{"prompt": "a", "x": %s}\n' % (b"9" * 5000), "invalid JSON", "digits"),
    "array": (b'["prompt"]\n', "not an object", "is of type list; one JSON object on each line"),
    "string": (b'"prompt"\n', "not an object", "is of type str"),
    "number": (b"3\n", "not an object", "is of type int"),
    "null line": (b"null\n", "not an object", "is of type NoneType"),
    "bad utf-8": (b'{"prompt": "\xff\xfe"}\n', "bad UTF-8", "byte 12 is not UTF-8"),
    "latin-1": ('{"prompt": "é"}\n'.encode("latin-1"), "bad UTF-8", "is not UTF-8; save it as"),
    "cut utf-8": (b'{"prompt": "\xe2\x82"}\n', "bad UTF-8", "is not UTF-8"),
    "raw surrogate": (b'{"prompt": "\xed\xa0\x80"}\n', "bad UTF-8", "is not UTF-8"),
    "utf-16": ('{"prompt": "a"}'.encode("utf-16"), "bad UTF-8", "is not UTF-8"),
    "bom inside": (codecs.BOM_UTF8 + line(GOOD[0]), "invalid JSON", "BOM"),
    "lone surrogate": (b'{"prompt": "\\ud800"}\n', "lone surrogate", "half of a surrogate pair"),
    "surrogate elsewhere": (b'{"prompt": "a", "x": ["\\uDFFF"]}\n', "lone surrogate", "half"),
    "surrogate in key": (b'{"prompt": "a", "\\ud800": 1}\n', "lone surrogate", "half"),
    "10k deep": (nested(10_000), "nested too deeply", "is nested too deeply"),
    "200 deep": (nested(200), "nested too deeply", "is nested too deeply; at most 100 levels"),
    "10 MB, torn": (b'{"prompt": "' + b"x" * 10_000_000 + b"\n", "invalid JSON", "is not JSON"),
    "escaped nul": (
        b'{"prompt": "a\\u0000b", "completion": "c"}\n',
        "NUL character",
        "field 'prompt': has a NUL character at 1",
    ),
    "missing prompt": (
        b'{"promt": "a"}\n',
        "missing field",
        "field 'prompt': is missing; did you mean promt?",
    ),
    "no field at all": (b"{}\n", "missing field", "field 'prompt': is missing; columns: none"),
    "other fields": (b'{"x": 1, "y": 2}\n', "missing field", "is missing; columns: x, y"),
    "line ends in names": (b'{"a\\nb\\u001b": 1}\n', "missing field", "columns: a b\\x1b"),
    "long names": (line({"x" * 10_000: 1}), "missing field", "is missing; columns: xxx"),
    "missing completion": (
        b'{"prompt": "a"}\n',
        "missing field",
        "field 'completion': is missing; columns: prompt",
    ),
    "null prompt": (
        b'{"prompt": null}\n',
        "null",
        "field 'prompt': is null; text or a list of chat messages",
    ),
    "null completion": (
        b'{"prompt": "a", "completion": null}\n',
        "null",
        "field 'completion': is null",
    ),
    "number prompt": (b'{"prompt": 12}\n', "wrong type", "field 'prompt': is 12; text or a list"),
    "bool prompt": (b'{"prompt": true}\n', "wrong type", "field 'prompt': is true; text"),
    "object prompt": (b'{"prompt": {"a": 1}}\n', "wrong type", "field 'prompt': is a table; text"),
    "empty prompt": (b'{"prompt": ""}\n', "empty field", "field 'prompt': is empty; at least one"),
    "blank prompt": (b'{"prompt": " \\n\\t"}\n', "empty field", "field 'prompt': is empty"),
    "empty completion": (
        b'{"prompt": "a", "completion": ""}\n',
        "empty field",
        "field 'completion': is empty",
    ),
    "messages for text": (
        line({"prompt": "a", "completion": [assistant("b")]}),
        "wrong type",
        "field 'completion': is a list of messages; text, as the prompt is text",
    ),
    "no messages": (b'{"prompt": []}\n', "empty field", "is an empty list; at least one message"),
    "message of text": (line({"prompt": ["hi"]}), "bad message", "message 1 is of type str"),
    "message of null": (line({"prompt": [None]}), "bad message", "message 1 is of type NoneType"),
    "no role": (line({"prompt": [{"content": "a"}]}), "bad message", 'message 1 lacks "role"'),
    "no content": (line({"prompt": [{"role": "user"}]}), "bad message", 'lacks "content"'),
    "content null": (line({"prompt": [user(None)]}), "bad message", 'message 1 lacks "content"'),
    "unknown key": (
        chat({**user("a"), "tool_calls": [1]}),
        "bad message",
        'message 1 has the unknown key "tool_calls"; role and content',
    ),
    "unknown role": (
        chat({"role": "usr", "content": "a"}),
        "unknown role",
        'message 1 has the unknown role "usr"; system, developer, user, assistant, tool',
    ),
    "list as role": (chat({"role": [], "content": "a"}), "unknown role", "has the unknown role"),
    "parts as content": (
        chat(user([{"type": "text", "text": "a"}])),
        "wrong type",
        "message 1 has a list as content; text",
    ),
    "empty content": (chat(user(" ")), "empty field", "message 1 is empty"),
    "nul in content": (chat(user("\0")), "NUL character", "message 1 has a NUL character at 0"),
    "no user turn": (
        chat({"role": "system", "content": "a"}),
        "no user turn",
        "field 'prompt': has no turn of the user; at least one",
    ),
    "assistant first": (
        chat(assistant("a"), user("b")),
        "roles out of turn",
        "message 1 is of the assistant, expected user",
    ),
    "consecutive roles": (
        chat(user("a"), user("b")),
        "roles out of turn",
        "message 2 is of the user, expected assistant",
    ),
    "late system": (
        chat(user("a"), assistant("b"), {"role": "system", "content": "c"}, user("d")),
        "roles out of turn",
        "message 3 is of the system, expected user",
    ),
    "two systems": (
        chat({"role": "system", "content": "a"}, {"role": "system", "content": "b"}, user("c")),
        "roles out of turn",
        "message 2 is of the system, expected user",
    ),
    "ends with assistant": (
        chat(user("a"), assistant("b")),
        "wrong last turn",
        "field 'prompt': ends with a turn of the assistant; the user or the tool must have the "
        "last turn",
    ),
    "no assistant turn": (
        line({"prompt": [user("a")]}),
        "no assistant turn",
        "has no turn of the assistant to learn from; at least one, at the end",
    ),
    "conversation ends with user": (
        line({"prompt": [user("a"), assistant("b"), user("c")]}),
        "wrong last turn",
        "ends with a turn of the user; the assistant must have the last turn",
    ),
    "completion of the user": (
        line({"prompt": [user("a")], "completion": [user("b")]}),
        "roles out of turn",
        "message 2 is of the user, expected assistant",
    ),
}  # fmt: skip


def load(path, *, demonstrations=True, **fields):
    data = Data(source=str(path), **fields)
    return load_rows(data, 5, 1, wanted="demonstrations" if demonstrations else "prompts")


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_told_with_its_place(tmp_path, name):
    bad, _, message = BAD_LINES[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINES + bad)
    with pytest.raises(BadRowError) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(f"{path}:41: ") and message in said
    assert "\n" not in said and len(said) < 300 + len(str(path))
    said.encode()


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_skipped_and_counted(tmp_path, name):
    bad, reason, _ = BAD_LINES[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINES + bad)
    rows = load(path, on_bad_row="skip", max_bad_share=0.03)
    assert rows.report.skipped == {reason: 1} and rows.report.read == 41
    assert rows.size == 36 and len(rows.evaluation) == 4
    assert {row.columns["prompt"] for row in [*rows.train, *rows.evaluation]} == {
        row["prompt"] for row in GOOD
    }
    with pytest.raises(DataError) as error:
        load(path, on_bad_row="skip", max_bad_share=0.02)
    said = str(error.value)
    assert "1 of 41 rows cannot be used, more than data.max_bad_share = 0.02 allows" in said
    assert f"{reason} 1; the first: {path}:41: " in said and "\n" not in said


def test_prompts_alone_need_no_completion(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINES + b'{"prompt": "a", "completion": null}\n')
    rows = load(path, demonstrations=False)
    assert rows.report.read == 41 and {row.completion for row in rows.evaluation} == {None}


def test_reasons_are_counted_most_frequent_first(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINES + b"3\n" + b"{}\n" * 3)
    assert load(path, on_bad_row="skip", max_bad_share=0.5).report.lines() == [
        f"{path}: 44 rows, 36 to train on, 4 evaluation prompts"
        " (kept out of training: 4 rows)",
        f"{path}: skipped missing field 3, not an object 1",
    ]  # fmt: skip


# CSV: header prompt,completion,answer and 40 good rows, so the bad one begins on line 42
CSV_GOOD = "prompt,completion,answer\n" + "".join(f"{i}+1=,>{i + 1},{i + 1}\n" for i in range(40))
BAD_CELLS = {
    "too few": (b"a,b\n", "wrong number of cells", "has 2 cells; the header has 3"),
    "too many": (b"a,b,c,d\n", "wrong number of cells", "has 4 cells; the header has 3"),
    "torn": (b"a,b", "wrong number of cells", "has 2 cells"),
    "bad utf-8": (b"a,\xff,c\n", "bad UTF-8", "field 'completion': is not UTF-8"),
    "empty prompt": (b",b,c\n", "empty field", "field 'prompt': is empty"),
    "empty completion": (b"a,,c\n", "empty field", "field 'completion': is empty"),
    "nul": (b"a\0,b,c\n", "NUL character", "field 'prompt': has a NUL character at 1"),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_bad_csv_rows(tmp_path, name):
    bad, reason, message = BAD_CELLS[name]
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV_GOOD.encode() + bad)
    with pytest.raises(BadRowError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:42: ") and message in str(error.value)
    skipped = load(path, on_bad_row="skip", max_bad_share=0.03).report.skipped
    assert skipped == {reason: 1}


def test_an_open_quote_is_an_error_even_where_rows_may_be_skipped(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,"b\nc,d\n')
    with pytest.raises(DataError, match=r"rows\.csv:2: is not CSV: .*close every quote"):
        load(path, on_bad_row="skip", max_bad_share=1.0)


def table(rows):
    return pa.Table.from_pylist(rows)


BAD_RECORDS = {
    "null prompt": ({"prompt": None}, "null", "field 'prompt': is null"),
    "empty prompt": ({"prompt": " "}, "empty field", "field 'prompt': is empty"),
    "null completion": ({"completion": None}, "null", "field 'completion': is null"),
    "nul": ({"completion": "\0"}, "NUL character", "field 'completion': has a NUL character at 0"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_parquet_rows(tmp_path, name):
    bad, reason, message = BAD_RECORDS[name]
    path = tmp_path / "rows.parquet"
    pq.write_table(table([*GOOD, {**GOOD[0], **bad}]), path)
    with pytest.raises(BadRowError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:41: ") and message in str(error.value)
    assert load(path, on_bad_row="skip", max_bad_share=0.03).report.skipped == {reason: 1}


def test_parquet_with_bad_utf8(tmp_path):
    path = tmp_path / "rows.parquet"
    prompts = [*(row["prompt"].encode() for row in GOOD), b"\xff"]
    column = pa.Array.from_buffers(
        pa.string(), len(prompts), pa.array(prompts, pa.binary()).buffers()
    )
    pq.write_table(pa.table({"prompt": column}), path)
    with pytest.raises(BadRowError, match=r"rows\.parquet:41: field 'prompt': is not UTF-8"):
        load(path, demonstrations=False)


def test_parquet_of_other_types(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": [1, 2]}), path)
    with pytest.raises(BadRowError, match=r":1: field 'prompt': is 1; text or a list"):
        load(path, demonstrations=False)
