"""The answers that the script of a page looks through, and what was learned on which prompt."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from answers_sample import earned, write_answers
from sample_run import lines, write_run
from test_page import Skeleton
from test_samples import chat, row

from polopt.record import share_of_top
from polopt.report import load, write
from polopt.report.answers import MOST, browser
from polopt.report.learned import Learned, Ranked, ranked
from polopt.report.samples import MAX_TEXT, common_system


def only(**fields: Any) -> dict[str, Any]:
    """One answer as the script has it."""
    (found,) = browser([row("train", 1, fields.pop("completion", "ab c"), **fields)]).data["rows"]
    return found


def test_answers_stand_by_step_and_what_came_after_training_last() -> None:
    found = browser(
        [row("after", 2, "z"), row("train", 2, "b"), row("train", 1, "a"), row("before", 0, "n")]
    )
    assert [one["text"] for one in found.data["rows"]] == ["n", "a", "b", "z"]
    assert (found.shown, found.recorded, found.steps, found.all_steps) == (4, 4, 2, 2)


def test_a_prompt_is_written_once() -> None:
    rows = [row("train", n, "x", ticket=n, prompt=f"{n % 2}+1=", key="k") for n in range(6)]
    found = browser(rows).data
    assert [one["turns"] for one in found["prompts"]] == [[["", "0+1=", 0]], [["", "1+1=", 0]]]
    assert [one["prompt"] for one in found["rows"]] == [0, 1, 0, 1, 0, 1]


def test_conversations_come_without_what_all_of_them_begin_with() -> None:
    samples = [chat(("system", "Briefly."), ("user", f"{n}?")) for n in range(2)]
    found = browser(samples, common_system(samples)).data["prompts"]
    assert [one["turns"] for one in found] == [[["user", "0?", 0]], [["user", "1?", 0]]]


def test_long_texts_are_cut_and_counted() -> None:
    found = only(completion="x" * (MAX_TEXT + 5))
    assert (len(found["text"]), found["cut"]) == (MAX_TEXT, 5)


def test_too_many_steps_are_thinned_evenly_and_the_last_one_stays() -> None:
    steps = 3 * MOST // MAX_TEXT
    found = browser(
        [row("before", 0, "b"), *(row("train", s, "y" * MAX_TEXT) for s in range(1, steps + 1))]
    )
    kept = [one["step"] for one in found.data["rows"]]
    assert kept[0] == 0 and kept[-1] == steps and len(kept) > steps // 6
    assert len({b - a for a, b in pairwise(kept[1:])}) == 1
    assert (found.shown, found.steps, found.all_steps) == (len(kept), len(kept) - 1, steps)
    assert len(json.dumps(found.data)) < 1.1 * MOST


def test_a_huge_step_keeps_some_of_its_answers() -> None:
    found = browser([row("train", 1, "<" * MAX_TEXT, ticket=t) for t in range(1_000)])
    assert 50 < found.shown < 200 and found.recorded == 1_000


def test_advantage_and_bound_of_the_tokens() -> None:
    found = only(advantages=-0.5, clipped=[[1, 2, "low"]], widths=[2, 1, 1, 0])
    assert found["advantage"] == -0.5 and found["clipped"] == [[1, 2, "low"]]
    assert found["ends"] == [2, 3, 4, 4]
    assert only(advantages=[1.0, None, 2.0], widths=[1, 1, 2])["advantage"] == [1.0, None, 2.0]
    assert not {"advantage", "clipped", "ends"} & only().keys(), "of an older record"


def test_tokens_end_where_the_script_counts_them() -> None:
    """In UTF-16, with hidden characters written out, in the part that is shown."""
    found = only(completion="a\x00\U0001f600b", advantages=1.0, widths=[1, 1, 1, 1])
    assert found["text"] == "a‹U+0000›\U0001f600b" and found["ends"] == [1, 9, 11, 12]
    found = only(completion="x" * (MAX_TEXT + 2), advantages=1.0, widths=[MAX_TEXT - 1, 2, 1])
    assert found["ends"] == [MAX_TEXT - 1, MAX_TEXT, MAX_TEXT]


ODD = [None, "x", True, [1], {"a": 1}, float("nan"), [[1, 0, "low"]], [["a", 2, "low"]], [-1, 5]]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_values_of_unexpected_types_are_left_out(value: Any) -> None:
    found = only(advantages=1.0, clipped=value, widths=value)
    assert "ends" not in found and "clipped" not in found
    if value != [1] and value != [-1, 5]:
        assert "advantage" not in only(advantages=value)
    json.dumps(found, allow_nan=False)


def test_the_share_of_the_best_tenth() -> None:
    assert share_of_top([1.0, *[0.1] * 9, *[-5.0] * 5]) == pytest.approx(1.1 / 1.9)  # two of 15
    assert share_of_top([0.0, -1.0]) is None and share_of_top([]) is None


def learned(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Ranked]:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    lines(run / "prompts.jsonl", rows)
    return ranked(load(run))


def said(found: Ranked) -> dict[str, list[Learned]]:
    return {title: prompts for title, _, prompts in found.lists}


def test_prompts_are_ranked_by_what_was_learned_on_them(tmp_path: Path) -> None:
    """By hand: a gains 0.75, b nothing, c loses 0.5 and was never good, d was at 1 and is at 0."""
    given = [
        {"a": 0.25, "b": 0.5, "c": 0.5},
        {"a": 0.5, "d": 0.0},
        {"c": 0.0, "b": 0.75, "d": 1.0},
        {"a": 1.0, "b": 0.5, "d": 0.0, "alone": 1.0},
    ]
    rows: list[dict[str, Any]] = [
        {"step": n, "stage": "rl", "trained": [*one], "earned": one}
        for n, one in enumerate(given, start=3)
    ]
    rows[0]["introduced"] = {"a": "How many?", "b": "x" * 500}
    (found,) = learned(tmp_path, [{"step": 0, "stage": "sft", "held_out": ["e"]}, *rows])
    assert (found.stage, found.asked, found.again) == ("rl", 5, 4)
    assert found.gain == pytest.approx((0.75 - 0.5) / 4)
    assert (found.share, found.top) == (1.0, 1)
    lists = said(found)
    (most,) = lists["Learned most"]
    assert (most.key, most.text, most.first, most.best, most.last) == ("a", "How many?", 0.25, 1, 1)
    assert most.line == "0.0,15.0 50.0,10.0 100.0,0.0" and not most.recorded
    assert [one.key for one in lists["Learned least"]] == ["c", "d", "b"]
    assert [one.key for one in lists["Forgotten"]] == ["d"]
    assert lists["Learned least"][2].text.endswith("x …")


def test_prompts_that_are_asked_once_say_nothing(tmp_path: Path) -> None:
    rows = [{"step": n, "stage": "rl", "earned": {f"k{n}": 0.5}} for n in range(1, 5)]
    (found,) = learned(tmp_path, rows)
    assert (found.asked, found.again, found.share, found.lists) == (4, 0, None, [])
    text = " ".join(Skeleton(write(tmp_path / "run").read_text()).text.split())
    assert "4 prompts were asked, none of them twice" in text


def test_a_record_without_prompts_has_no_such_part(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    assert ranked(load(run)) == []
    assert 'id="prompts"' not in write(run).read_text()
    lines(run / "prompts.jsonl", [{"step": 1, "stage": "rl", "earned": "x"}])
    assert ranked(load(run)) == []


def test_prompts_without_a_text_are_named_by_their_key(tmp_path: Path) -> None:
    run = write_answers(write_run(tmp_path / "run", sft_steps=2, rl_steps=2), 16)
    rows = [{k: v for k, v in one.items() if k != "introduced"} for one in earned(60)]
    lines(run / "prompts.jsonl", rows)
    (found,) = ranked(load(run))
    texts = {one.key: (one.text, one.recorded) for _, _, some in found.lists for one in some}
    assert texts[f"{0:016x}"] == ("What is 0 plus 5?", True), "by an answer that was recorded"
    assert texts[f"{10:016x}"] == ("", False)
    assert f"prompt {10:016x}" in Skeleton(write(run).read_text()).text


def test_five_thousand_answers_make_a_page_in_a_moment(tmp_path: Path) -> None:
    run = write_answers(write_run(tmp_path / "run", sft_steps=2, rl_steps=2), 5_000, words=80)
    path = write(run)
    assert path.stat().st_size < 6_000_000
    assert "5,000 answers" in path.read_text()
