from __future__ import annotations

import codecs
import csv
import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polopt.data import PromptStream, generated, load_rows
from polopt.errors import DataError
from polopt.recipe import Data

ROWS = [
    {"prompt": f'{i}, "+1"\n=', "completion": f">{i + 1} é 🙂", "answer": f"{i + 1}"}
    for i in range(25)
]


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def load(path, prompts=5, seed=1, **fields):
    return load_rows(Data(source=str(path), **fields), prompts, seed, wanted="demonstrations")


def columns(rows):
    return [row.columns for row in rows]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_rows_unchanged(tmp_path, suffix):
    rows = load(write(tmp_path / f"rows{suffix}"))
    both = [*rows.train, *rows.evaluation]
    assert sorted(columns(both), key=lambda row: int(row["answer"])) == ROWS
    assert all((row.prompt, row.completion) == (row.columns["prompt"], row.columns["completion"])
               for row in both)  # fmt: skip


def test_places_are_lines(tmp_path):
    rows = load(write(tmp_path / "rows.csv"))  # every prompt has a line end: two lines a row
    assert {row.where: int(row.columns["answer"]) for row in rows.train} == {
        f"{tmp_path}/rows.csv:{2 * int(row.columns['answer'])}": int(row.columns["answer"])
        for row in rows.train
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_byte_order_mark_crlf_and_blank_lines_are_no_fault(tmp_path, suffix):
    rows = [{"prompt": f"{i}+1=", "completion": f">{i + 1}"} for i in range(20)]
    path = write(tmp_path / f"rows{suffix}", rows)
    text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n\r\n")
    path.write_bytes(codecs.BOM_UTF8 + text.rstrip())
    found = load(path)
    assert sorted(row.columns["prompt"] for row in [*found.train, *found.evaluation]) == sorted(
        row["prompt"] for row in rows
    )


def test_a_row_of_10_mb(tmp_path):
    rows = [*ROWS, {"prompt": "x" * 10_000_000, "completion": "y", "answer": ""}]
    for suffix in (".jsonl", ".csv", ".parquet"):
        found = load(write(tmp_path / f"rows{suffix}", rows))
        assert max(len(row.prompt) for row in [*found.train, *found.evaluation]) == 10_000_000


def test_other_field_names(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"q": f"{i}", "a": "x"} for i in range(5)])
    assert load(path, prompt_field="q", completion_field="a").train[0].completion == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl' does not exist"),
        ("folder.jsonl", "folder", "folder.jsonl' is not a file"),
        ("rows.txt", b"", "rows.txt' is no data file; allowed: .jsonl, .csv, .parquet"),
        ("rows.json", b"[]", "rows.json' is no data file; allowed: .jsonl, .csv, .parquet"),
        ("empty.jsonl", b"", "empty.jsonl: has no rows"),
        ("blank.jsonl", b"\n \n", "blank.jsonl: has no rows"),
        ("empty.csv", b"", "empty.csv: has no rows"),
        ("header.csv", b"prompt,completion\n", "header.csv: has no rows"),
        (
            "twice.csv",
            b"prompt,prompt\na,b\n",
            'twice.csv:1: two columns have the same name, "prompt"',
        ),
        ("latin.csv", b"prompt,\xff\na,b\n", "latin.csv:1: the header is not UTF-8"),
        ("empty.parquet", b"", "empty.parquet:1: cannot be read as Parquet"),
        ("text.parquet", b"hello" * 20, "text.parquet:1: cannot be read as Parquet"),
        ("one.jsonl", b'{"prompt": "a", "completion": "b"}\n' * 3, "all 3 rows have the same"),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_files_that_cannot_be_used(tmp_path, name, content, message, on_bad_row):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(path, on_bad_row=on_bad_row)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = write(tmp_path / "rows.jsonl")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be opened: Permission denied"):
        load(path)


def test_a_torn_parquet_file(tmp_path):
    path = write(tmp_path / "rows.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(path)


def test_all_rows_bad(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n{}\n")
    with pytest.raises(DataError, match=r"has no rows that can be used; .*rows\.jsonl:1: field"):
        load(path, on_bad_row="skip", max_bad_share=1.0)


@pytest.mark.parametrize(
    ("distinct", "asked", "held_out"), [(2, 512, 1), (10, 512, 1), (11, 512, 2), (100, 3, 3)]
)
def test_a_tenth_of_the_distinct_prompts_is_held_out_with_every_row_of_them(
    tmp_path, distinct, asked, held_out
):
    rows = [{"prompt": f"p{i % distinct}", "completion": f"c{i}"} for i in range(3 * distinct)]
    found = load(write(tmp_path / "rows.jsonl", rows), prompts=asked)
    evaluation = {row.prompt for row in found.evaluation}
    assert len(found.evaluation) == len(evaluation) == held_out
    assert not evaluation & {row.prompt for row in found.train}
    assert found.size == len(found.train) == 3 * (distinct - held_out)
    assert found.report.overlapping == 3 * held_out
    assert found.report.lines() == [
        f"{tmp_path}/rows.jsonl: {3 * distinct} rows, {found.size} to train on, {held_out} "
        f"evaluation prompts (kept out of training: {3 * held_out} rows)"
    ]


def test_the_seed_chooses_what_is_held_out(tmp_path):
    path = write(
        tmp_path / "rows.jsonl", [{"prompt": f"{i}", "completion": "c"} for i in range(99)]
    )
    first, again, other = (
        [row.prompt for row in load(path, seed=seed).evaluation] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_messages_that_are_equal_are_one_prompt(tmp_path):
    messages = [[{"role": "user", "content": f"{i}"}] for i in range(2)]
    turned = [{"content": "0", "role": "user"}]
    rows = [{"prompt": m, "completion": "c"} for m in [*messages, turned]]
    found = load(write(tmp_path / "rows.jsonl", rows))
    prompts = [{m["content"] for m in row.prompt} for row in found.train]
    assert len(found.train) + found.report.overlapping == 3 and len(map_to_set(prompts)) == 1


def map_to_set(sets):
    return set.union(*sets)


def test_a_whole_conversation_is_divided_where_the_assistant_first_speaks(tmp_path):
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    rows = [{"messages": talk}, {"messages": [{**talk[1], "content": "x"}, *talk[2:]]}]
    found = load(write(tmp_path / "rows.jsonl", rows), prompt_field="messages")
    both = {len(row.prompt): row for row in [*found.train, *found.evaluation]}
    assert both[2].prompt == tuple(talk[:2]) and both[2].completion == tuple(talk[2:])


def test_an_evaluation_source(tmp_path):
    train = [{"prompt": f"p{i}", "completion": "c"} for i in range(10)]
    evaluation = [{"prompt": f"p{i}", "completion": "c"} for i in (8, 9, 9, 10, 11)]
    found = load(
        write(tmp_path / "train.jsonl", train),
        evaluation_source=str(write(tmp_path / "evaluation.csv", evaluation)),
    )
    assert {row.prompt for row in found.evaluation} == {"p8", "p9", "p10", "p11"}
    assert {row.prompt for row in found.train} == {f"p{i}" for i in range(8)}
    assert found.report.overlapping == 2


def test_bad_rows_of_an_evaluation_source_are_counted(tmp_path):
    path = write(tmp_path / "e.jsonl", [{"prompt": "x", "completion": "c"}, {"prompt": None}])
    train = write(tmp_path / "rows.jsonl")
    found = load(train, evaluation_source=str(path), on_bad_row="skip", max_bad_share=0.5)
    assert found.report.lines() == [
        f"{train}: 25 rows, 25 to train on, 1 evaluation prompts",
        "data.evaluation_source: skipped null 1",
    ]
    with pytest.raises(DataError, match=r"e\.jsonl:2: field 'prompt': is null"):
        load(train, evaluation_source=str(path))


def test_an_evaluation_source_that_leaves_nothing_or_is_missing(tmp_path):
    path = write(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="none is left to train"):
        load(path, prompts=100, evaluation_source=str(path))
    with pytest.raises(DataError, match=r"data\.evaluation_source: .* does not exist"):
        load(path, evaluation_source=str(tmp_path / "no.jsonl"))


def test_generated_rows():
    calls = Counter()

    def row(split, index):
        calls[split] += 1
        return {"prompt": f"{split}{index}", "answer": "a", "completion": "c"}

    found = generated("task:x", row, 7, wanted="demonstrations")
    assert found.size is None and [r.prompt for r in found.evaluation[:2]] == [
        "evaluation0", "evaluation1",
    ]  # fmt: skip
    assert calls == {"evaluation": 7}
    assert found.train[10**9].prompt == "train1000000000" and found.train[3].completion == "c"
    assert found.train[3].where == "task:x:train:3"
    assert found.report.lines() == ["task:x: endless training rows, 7 evaluation prompts"]
    assert generated("task:x", row, 1).train[0].completion is None


def test_the_stream_is_endless_and_each_epoch_is_a_permutation_of_its_own():
    stream = PromptStream(10, seed=3)
    epochs = [[stream(10 * epoch + place) for place in range(10)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [PromptStream(10, 3)(p) for p in (25, 3, 17)] == [
        epochs[2][5], epochs[0][3], epochs[1][7],
    ]  # fmt: skip
    assert [PromptStream(10, 4)(place) for place in range(10)] != epochs[0]
    assert type(stream(0)) is int


def test_the_order_of_an_epoch_never_changes_between_releases():
    # resuming an old run depends on these numbers
    assert [PromptStream(10, 1)(place) for place in range(10)] == [
        3,
        2,
        9,
        4,
        7,
        5,
        1,
        6,
        8,
        0,
    ]


def test_data_without_end_are_taken_in_order():
    assert [PromptStream(None, 1)(place) for place in (0, 5, 10**12)] == [0, 5, 10**12]
    with pytest.raises(ValueError, match="before the beginning"):
        PromptStream(None, 1)(-1)
