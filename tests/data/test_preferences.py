"""Pairs and rankings: every format, every way to say the prompt, every kind of bad row."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polopt.data import BadRowError, Tokeniser, generated, load_rows
from polopt.data.preferences import accept_ranked
from polopt.data.rows import Fields
from polopt.envs.text import load as load_task
from polopt.errors import DataError
from polopt.models.builtin import tokenizer
from polopt.recipe import Data
from polopt.rollout.dataset import ranked

PAIRS = [{"prompt": f"{i}+1=", "chosen": f">{i + 1}", "rejected": f">{i}"} for i in range(30)]
RANKING = Fields(completions="completions")
WITH_RANKS = Fields(completions="completions", ranks="ranks")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def accepted(fields=None, **columns):
    return accept_ranked("rows.jsonl:7", columns, fields or Fields())


def said(row):
    return [(one.completion, one.rank) for one in row.ranked]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path, **fields):
    return load_rows(Data(source=str(path), **fields), 3, 1, wanted="pairs")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_pairs_of_every_format(tmp_path, suffix):
    rows = load(write(tmp_path / f"rows{suffix}", PAIRS))
    assert rows.size == 27 and len(rows.evaluation) == 3
    for row in [*rows.train, *rows.evaluation]:
        assert said(row) == [(row.columns["chosen"], 0), (row.columns["rejected"], 1)]
        assert row.columns in PAIRS and row.completion is None


def test_other_field_names(tmp_path):
    named = [{"q": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in PAIRS]
    path = write(tmp_path / "rows.jsonl", named)
    rows = load(path, prompt_field="q", chosen_field="good", rejected_field="bad")
    assert said(rows.train[0]) == [
        (rows.train[0].columns["good"], 0),
        (rows.train[0].columns["bad"], 1),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rankings(tmp_path, suffix):
    rows = [{"prompt": f"{i}=", "c": ["a", "b", "d"], "r": [2, 0.5, 2]} for i in range(10)]
    path = write(tmp_path / f"rows{suffix}", rows)
    best_first = load(path, completions_field="c")
    assert said(best_first.train[0]) == [("a", 0), ("b", 1), ("d", 2)]
    with_ranks = load(path, completions_field="c", ranks_field="r")
    assert said(with_ranks.train[0]) == [("a", 2), ("b", 0.5), ("d", 2)]


def test_chat():
    prompt = [user("3+8=")]
    texts = accepted(prompt=prompt, chosen=">1", rejected=">2")
    messages = accepted(prompt=prompt, chosen=[assistant(">1")], rejected=[assistant(">2")])
    assert texts.ranked == messages.ranked
    assert said(texts) == [((assistant(">1"),), 0), ((assistant(">2"),), 1)]
    of_three = accepted(
        RANKING, prompt=prompt, completions=[">1", [assistant(">2")], [assistant(">3")]]
    )
    assert said(of_three) == [((assistant(f">{i + 1}"),), i) for i in range(3)]


def test_an_implied_prompt_is_what_both_conversations_begin_with():
    start = [user("3+8="), assistant(">1"), user("1-9=")]
    row = accepted(chosen=[*start, assistant(">2")], rejected=[*start, assistant(">5")])
    assert row.prompt == tuple(start)
    assert said(row) == [((assistant(">2"),), 0), ((assistant(">5"),), 1)]


def test_a_task_gives_rankings():
    task = load_task("task:taste", {"candidates": 3}, 1)
    rows = generated("task:taste", task.row, 4, wanted="pairs")
    row = rows.train[5]
    columns = task.row("train", 5)
    assert said(row) == list(zip(columns["completions"], columns["ranks"], strict=True))


BAD = {
    "no pair": (
        Fields(),
        {"prompt": "a", "completion": "b"},
        "missing field",
        "field 'chosen': is missing; columns: prompt, completion; a pair has 'chosen' and "
        "'rejected', a ranking data.completions_field",
    ),
    "near": (
        Fields(),
        {"prompt": "a", "choosen": "b", "rejected": "c"},
        "missing field",
        "field 'chosen': is missing; did you mean choosen?",
    ),
    "no prompt": (
        Fields(),
        {"chosen": "b", "rejected": "c"},
        "missing field",
        "field 'prompt': is missing; columns: chosen, rejected",
    ),
    "equal": (
        Fields(),
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        "equal responses",
        "field 'rejected': is the same as 'chosen'",
    ),
    "empty": (
        Fields(),
        {"prompt": "a", "chosen": "b", "rejected": ""},
        "empty field",
        "field 'rejected': is empty; at least one character",
    ),
    "null": (
        Fields(),
        {"prompt": "a", "chosen": None, "rejected": "b"},
        "null",
        "field 'chosen': is null; text or a list of chat messages",
    ),
    "mixed": (
        Fields(),
        {"prompt": "a", "chosen": [assistant("b")], "rejected": "c"},
        "wrong type",
        "field 'chosen': is a list of messages; text, as the prompt is text",
    ),
    "equal conversations": (
        Fields(),
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        "equal responses",
        "field 'rejected': and 'chosen' do not differ in a response",
    ),
    "one goes on": (
        Fields(),
        {
            "chosen": [user("a"), assistant("b")],
            "rejected": [user("a"), assistant("b"), user("c"), assistant("d")],
        },
        "equal responses",
        "do not differ in a response",
    ),
    "two conversations": (
        Fields(),
        {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("b")]},
        "no common prompt",
        "field 'rejected': has no message in common with 'chosen' that could be the prompt",
    ),
    "users differ": (
        Fields(),
        {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
            "rejected": [user("a"), assistant("b"), user("e"), assistant("d")],
        },
        "wrong last turn",
        "ends with a turn of the assistant; the user or the tool must have the last turn",
    ),
    "no completions": (
        RANKING,
        {"prompt": "a", "completion": "b"},
        "missing field",
        "field 'completions': is missing; did you mean completion?",
    ),
    "text for a list": (
        RANKING,
        {"prompt": "a", "completions": "b"},
        "no ranking",
        "field 'completions': is \"b\"; a list of at least two responses",
    ),
    "one": (
        RANKING,
        {"prompt": "a", "completions": ["b"]},
        "no ranking",
        "is a list of 1; a list of at least two responses",
    ),
    "empty response": (
        RANKING,
        {"prompt": "a", "completions": ["b", " "]},
        "empty field",
        "field 'completions': response 2 is empty",
    ),
    "null response": (
        RANKING,
        {"prompt": "a", "completions": ["b", None]},
        "null",
        "field 'completions': response 2 is null; text or a list",
    ),
    "bad message": (
        RANKING,
        {"prompt": [user("a")], "completions": ["b", [{"role": "assistant"}]]},
        "bad message",
        "field 'completions': response 2 message 1 lacks \"content\"",
    ),
    "twice": (
        RANKING,
        {"prompt": "a", "completions": ["b", "c", "b"]},
        "equal responses",
        "field 'completions': has the same response at two ranks",
    ),
    "ranks of text": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c"], "ranks": "01"},
        "wrong type",
        "field 'ranks': is \"01\"; a list of numbers, lower is better",
    ),
    "a rank of text": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c"], "ranks": [0, "1"]},
        "wrong type",
        "a list of numbers, lower is better",
    ),
    "a rank of true": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c"], "ranks": [0, True]},
        "wrong type",
        "a list of numbers, lower is better",
    ),
    "a rank of nan": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c"], "ranks": [0, float("nan")]},
        "wrong type",
        "a list of numbers, lower is better",
    ),
    "too few ranks": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [0, 1]},
        "wrong number of ranks",
        "field 'ranks': has 2 ranks for the 3 responses of 'completions'",
    ),
    "nothing preferred": (
        WITH_RANKS,
        {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 1]},
        "no preference",
        "field 'completions': has 2 responses of the same rank; at least one that is better",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_told_with_place_field_and_what_is_allowed(name):
    fields, columns, reason, message = BAD[name]
    with pytest.raises(BadRowError) as error:
        accept_ranked("rows.jsonl:7", columns, fields)
    assert str(error.value).startswith("rows.jsonl:7: ") and message in str(error.value)
    assert error.value.reason == reason and "\n" not in str(error.value)


def test_equal_responses_may_share_a_rank():
    row = accepted(WITH_RANKS, prompt="a", completions=["b", "b", "c"], ranks=[0, 0, 1])
    assert len(row.ranked) == 3


def test_bad_pairs_are_skipped_and_counted(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*PAIRS, {**PAIRS[0], "rejected": ">1"}, {"x": "y"}])
    rows = load(path, on_bad_row="skip", max_bad_share=0.1)
    assert rows.report.skipped == {"equal responses": 1, "missing field": 1}
    with pytest.raises(DataError, match=r"rows\.jsonl:31: field 'rejected': is the same as"):
        load(path)


def test_held_out_prompts_are_in_no_training_pair(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*PAIRS, *({**p, "rejected": "?"} for p in PAIRS)])
    rows = load(path)
    assert rows.size == 54 and len(rows.evaluation) == 3
    assert {r.prompt for r in rows.train}.isdisjoint(r.prompt for r in rows.evaluation)


def test_tokens_are_those_of_demonstrations():
    tokeniser = Tokeniser(tokenizer())
    ranking = tokeniser.ranking(accepted(prompt="3+8=", chosen=">1", rejected="12>2"), 5)
    decode = tokeniser.tokenizer.decode
    assert ranking.ranks == (0, 1) and ranking.prompt.id == 5
    for response, text in zip(ranking.responses, (">1", "12>2"), strict=True):
        assert decode(response.tokens) == f"3+8={text}<eos>"
        assert decode(response.tokens[response.mask]) == f"{text}<eos>"
        assert response.prompt_length == 4 and response.prompt == ranking.prompt


def test_tokens_of_a_conversation_are_those_of_each_answer():
    tokeniser = Tokeniser(tokenizer())
    start = [user("3+8="), assistant(">1"), user("1-9=")]
    row = accepted(chosen=[*start, assistant(">2")], rejected=[*start, assistant(">5")])
    for response, text in zip(tokeniser.ranking(row, 0).responses, (">2", ">5"), strict=True):
        assert tokeniser.tokenizer.decode(response.tokens[response.mask]) == f"{text}<eos>"
        assert list(response.tokens[: response.prompt_length]) == list(response.prompt.tokens)


def test_the_field_of_a_response_that_cannot_be_tokenised_is_named():
    tokeniser = Tokeniser(tokenizer(), max_tokens=8)
    with pytest.raises(BadRowError, match="field 'rejected': contains the special token"):
        tokeniser.check(accepted(prompt="a", chosen="b", rejected="<eos>"))
    with pytest.raises(BadRowError, match="field 'rejected': makes 11 tokens with its prompt"):
        tokeniser.check(accepted(prompt="a", chosen="b", rejected="123456789"))


def test_a_ranking_as_a_group():
    tokeniser = Tokeniser(tokenizer())
    row = accepted(WITH_RANKS, prompt="a", completions=["b", "cd", "e"], ranks=[1, 0, 1])
    group = ranked(7, tokeniser.ranking(row, 3))
    assert group.ticket == 7 and group.prompt.text == "a"
    assert [sample.reward for sample in group.samples] == [-1.0, 0.0, -1.0]
    assert [int(sample.mask.sum()) for sample in group.samples] == [2, 3, 2]
    assert all(np.isnan(sample.logp_rollout).all() for sample in group.samples)
