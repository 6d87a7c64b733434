"""What polopt xray counts, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polopt.diagnose.xray.breaks import Loop, breaks, loop
from polopt.diagnose.xray.certainty import another, certainty
from polopt.diagnose.xray.change import change, position
from polopt.diagnose.xray.classes import classes
from polopt.diagnose.xray.diversity import bleu, distinct, diversity, pass_at, passes, self_bleu
from polopt.diagnose.xray.intervals import ratio, ratios
from polopt.diagnose.xray.read import Answer
from polopt.diagnose.xray.scoring import Compared, measured
from polopt.diagnose.xray.swaps import swaps
from polopt.models import builtin
from polopt.report.xray.words import CLASSES
from polopt.rollout.pieces import pieces

TOKENIZER = builtin.tokenizer()


# One token


def columns(before: list[float], after: list[float], token: int) -> list[float]:
    """The columns of one token, from the probabilities of both models."""
    logits = [torch.tensor([row], dtype=torch.float64).log() + 3.0 for row in (before, after)]
    return measured(*logits, torch.tensor([token]))[:, 0].tolist()


def test_a_token_by_hand() -> None:
    """p = (½, 3/10, 2/10) becomes q = (¼, 7/10, 1/20); the second token stands there.

    KL(q‖p) = ¼ ln ½ + 0.7 ln(7/3) + 0.05 ln ¼ = -0.17329 + 0.59311 - 0.06931 = 0.35051.
    H(p) = ½ ln 2 + 0.3 ln(10/3) + 0.2 ln 5 = 0.34657 + 0.36119 + 0.32189 = 1.02965.
    H(q) = ¼ ln 4 + 0.7 ln(10/7) + 0.05 ln 20 = 0.34657 + 0.24967 + 0.14979 = 0.74603.
    """
    found = columns([0.5, 0.3, 0.2], [0.25, 0.7, 0.05], 1)
    wanted = [math.log(0.3), math.log(0.7), 2, 1, 1.02965, 0.74603, 0.35051, 0, 1]
    assert found == pytest.approx(wanted, abs=1e-5)


def test_ranks_count_the_tokens_that_are_more_likely() -> None:
    assert columns([0.4, 0.4, 0.2], [0.1, 0.2, 0.7], 1)[2:4] == [1, 2]
    assert columns([0.4, 0.4, 0.2], [0.1, 0.2, 0.7], 0)[2:4] == [1, 3]


def test_the_same_model_twice_is_exactly_nothing() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 8
    found = measured(logits, logits.clone(), torch.arange(5))
    assert found[6].tolist() == [0.0] * 5
    assert torch.equal(found[0], found[1])


def test_a_token_that_cannot_be_drawn_is_no_nan() -> None:
    before, after = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[1.0, 0.0, -torch.inf]])
    found = measured(before, after, torch.tensor([0]))
    assert torch.isfinite(found).all() and found[6] > 0


# Certainty


def test_what_certainty_costs() -> None:
    """1 - 0.99¹⁶ = 1 - 0.85146 and 1 - 0.999¹⁶ = 1 - 0.98412."""
    found = another(np.log([0.99, 0.999, 1.0, 0.5]), 16)
    assert found[:3] == pytest.approx([0.149, 0.0159, 0.0], abs=1e-3 / 2)
    assert found[1] == pytest.approx(0.01588, abs=1e-5)
    assert another(np.log([0.5]), 2) == pytest.approx([0.75])


def made(
    p: list[float],
    q: list[float],
    *,
    prompt: int = 0,
    kl: list[float] | None = None,
    ids: list[int] | None = None,
    kinds: list[str] | None = None,
    tops: tuple[list[int], list[int]] | None = None,
    finish: str = "stop",
    of: str = "after",
) -> Answer:
    """An answer by the probabilities of its tokens."""
    count, ones = len(p), np.ones(len(p), dtype=np.int64)
    own = ids or list(range(count))
    tops = tops or ([0] * count, [0] * count)
    return Answer(
        of=of, prompt=prompt, draw=0, completion="", reward=None, outcome="ok", finish=finish,
        loop=loop(own), ids=own, pieces=["x"] * count, classes=kinds or ["words"] * count,
        numbers=Compared(
            np.log(p), np.log(q), ones, ones, np.ones(count), np.ones(count),
            np.array(kl or [0.0] * count), np.array(tops[0]), np.array(tops[1]),
        ),
    )  # fmt: skip


def test_the_certain_that_rose_by_their_probability_before() -> None:
    """0.92 fell, 0.95 and 0.99 rose, 0.5 is not certain; 0.95 begins the second bin."""
    answers = [made([0.92, 0.95], [0.91, 0.99]), made([0.99, 0.5], [0.999, 0.9], prompt=1)]
    rows = certainty(answers, 16)
    assert [row["tokens"] for row in rows] == [1, 1, 1, 0, 3]
    assert [row["rose"] and row["rose"]["value"] for row in rows[:4]] == [0.0, 1.0, 1.0, None]
    every = rows[-1]
    assert (every["from"], every["below"]) == (0.9, None)
    assert every["rose"]["value"] == pytest.approx(2 / 3)
    assert rows[2]["another_before"]["value"] == pytest.approx(0.1485, abs=1e-4)
    assert rows[2]["another_after"]["value"] == pytest.approx(0.0159, abs=1e-4)


def test_rounding_is_no_rise() -> None:
    assert certainty([made([0.95], [0.95 + 1e-9])], 8)[-1]["rose"]["value"] == 0.0


# Intervals


def test_ratios_of_sums_and_their_intervals() -> None:
    x, y = np.array([[1.0, 2.0, 3.0, 0.0]]), np.array([2.0, 2.0, 4.0, 2.0])
    (found,) = ratios(x, y, [0, 0, 1, 1])
    assert found.value == 0.6  # 6 / 10
    assert found.interval == (0.5, 0.75)  # the prompts have 3/6 and 3/4, and both are drawn often


def test_answers_of_one_prompt_are_no_evidence_about_others() -> None:
    x = np.array([0.0, 1.0] * 500)
    assert ratio(x, np.ones(1000), [7] * 1000).interval is None
    few, many = ratio(x, np.ones(1000), [0, 1] * 500), ratio(x, np.ones(1000), range(1000))
    assert few.interval == (0.0, 1.0) and many.interval is not None
    assert many.interval[1] - many.interval[0] < 0.1


def test_nothing_by_nothing_is_nothing() -> None:
    found = ratio(np.zeros(3), np.zeros(3), [0, 1, 2])
    assert (found.value, found.interval) == (0.0, (0.0, 0.0))


# Where the change sits


def test_shares_of_classes_and_places_by_hand() -> None:
    """KL 0.6 + 0.1 of the first tokens, 0.3 of a number: 70 % and 30 % of 1.0."""
    answers = [
        made([0.5] * 3, [0.6] * 3, kl=[0.6, 0.3, 0.0], kinds=["words", "numbers", "operators"]),
        made([0.5] * 2, [0.6] * 2, kl=[0.1, 0.0], kinds=["numbers", "numbers"], prompt=1),
    ]
    found = change(answers, {0: "a"}, 8)
    shares = {row["name"]: (row["tokens"], row["of_kl"]["value"]) for row in found["classes"]}
    assert shares == {
        "first token": (2, pytest.approx(0.7)),
        "numbers": (2, pytest.approx(0.3)),
        "operators": (1, 0.0),
    }
    assert [row["name"] for row in found["positions"]] == ["1", "2", "3–4"]
    assert sum(row["of_kl"]["value"] for row in found["positions"]) == pytest.approx(1.0)
    assert sum(row["of_tokens"] for row in found["classes"]) == pytest.approx(1.0)
    assert found["kl_answer"]["value"] == pytest.approx(0.5)
    assert found["kl_token"]["value"] == pytest.approx(0.2)
    assert found["log_ratio_answer"]["value"] == pytest.approx(2.5 * math.log(1.2))


def test_without_a_change_every_share_is_zero() -> None:
    found = change([made([0.5, 0.5], [0.5, 0.5], prompt=n) for n in range(3)], {0: "a"}, 8)
    assert not found["changed"] and found["swaps"] == []
    for row in (*found["classes"], *found["positions"]):
        assert row["of_kl"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["kl_answer"]["value"] == found["moved"]["value"] == 0.0


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (0, "1"),
        (1, "2"),
        (2, "3–4"),
        (3, "3–4"),
        (4, "5–8"),
        (7, "5–8"),
        (8, "9–16"),
        (511, "257–512"),
    ],
)
def test_places_double(place: int, name: str) -> None:
    assert position(place) == name


def test_pairs_of_likeliest_tokens_are_counted() -> None:
    answers = [
        made([0.5] * 2, [0.5] * 2, tops=([1, 1], [2, 1])),
        made([0.5] * 2, [0.5] * 2, tops=([1, 3], [2, 1]), prompt=1),
        made([0.5] * 2, [0.5] * 2, tops=([4, 1], [4, 2]), prompt=1),
    ]
    assert swaps(answers, {1: ">", 2: "3", 3: "x"}) == [
        {"before": ">", "after": "3", "count": 3, "first": 2, "prompts": 2},
        {"before": "x", "after": ">", "count": 1, "first": 0, "prompts": 1},
    ]


# Classes


def by_character(text: str) -> list[str]:
    return classes(list(text))


def test_chained_arithmetic() -> None:
    """Operands are numbers, what a step comes to is a result."""
    n, o, r, p = "numbers", "operators", "results", "punctuation"
    assert by_character("3+8=1;1-9=2>2") == [n, o, n, o, r, p, n, o, n, o, r, o, n]


@pytest.mark.parametrize(
    ("tokens", "kinds"),
    [
        (["There", "fore", ",", " we"], ["connectives", "connectives", "punctuation", "words"]),
        ([" Wait", "..."], ["connectives", "punctuation"]),
        (["well-known", " so", "me"], ["words", "words", "words"]),
        (["x", " =", " 12", ".5"], ["words", "operators", "results", "results"]),
        (["1", ",000", " kg"], ["numbers", "numbers", "words"]),
        (["\\frac", "{", "1", "}"], ["operators", "punctuation", "numbers", "punctuation"]),
        (["<think>", "\n", "</think>"], ["format", "spaces", "format"]),
        (["####", " 7"], ["format", "numbers"]),
        (["don’t", " let’s"], ["words", "connectives"]),
        (["Ä", "ö", "界"], ["words", "words", "words"]),
        (["", "é"], ["words", "words"]),
        (["\ufffd"], ["other"]),
        ([], []),
        ([""], ["other"]),
    ],
)
def test_classes_are_those_of_the_text(tokens: list[str], kinds: list[str]) -> None:
    assert classes(tokens) == kinds


def test_a_special_token_is_format_whatever_it_looks_like() -> None:
    assert classes(["a", "and"], [5, 2], {2}) == ["words", "format"]


@given(st.lists(st.text(max_size=6), max_size=8))
def test_every_token_has_a_class(tokens: list[str]) -> None:
    found = classes(tokens)
    assert len(found) == len(tokens) and set(found) <= CLASSES.keys()


# Text of tokens


@pytest.mark.parametrize("text", ["3+8=1", "zwölf €", "界", "a\n\tb", "🙂!"])
def test_pieces_are_the_answer(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    found = pieces(TOKENIZER, [1, 20], ids)
    assert "".join(found) == text and len(found) == len(ids)


def test_a_character_is_in_the_last_of_its_tokens() -> None:
    ids = TOKENIZER("é1", add_special_tokens=False)["input_ids"]
    assert pieces(TOKENIZER, [], [*ids, 2]) == ["", "é", "1", "<eos>"]


def test_bytes_that_are_no_character_end_somewhere() -> None:
    broken = TOKENIZER("é", add_special_tokens=False)["input_ids"][:1]
    found = pieces(TOKENIZER, [20], [*broken * 6, 20])
    assert len(found) == 7 and "\ufffd" in "".join(found)


# Loops and other breaks


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3+8=1;1;1;1;1;1;1;", Loop(6, 2, 14)),
        ("ab" + "c" * 12, Loop(3, 1, 12)),
        ("ab" + "c" * 11, None),  # too short
        ("abcdefgh" * 2, None),  # twice is not three times
        ("abcdefgh" * 3, Loop(8, 8, 24)),
        ("xy" + "abcdefgh" * 3 + "the end", Loop(10, 8, 24)),
        ("3+8=1;1-9=2;2+1=3;3-2=1>1", None),
        ("", None),
        ("a", None),
    ],
)
def test_where_repetition_begins(text: str, found: Loop | None) -> None:
    assert loop(letters(text)) == found


def test_shares_of_broken_answers_and_where_loops_begin() -> None:
    loops = letters("abcd" + "e" * 16)
    flat = [0.5] * 20
    after = [
        made(flat, flat, ids=loops, finish="length"),
        made(flat[:3], flat[:3], prompt=1),
        made(flat[:7], flat[:7], prompt=2),
        made(flat[:2], flat[:2], prompt=3),
    ]
    before = [made(flat[:10], flat[:10], prompt=0), made(flat[:3], flat[:3], prompt=2)]
    found = breaks(after, before)
    shares = {name: found[name]["value"] for name in ("cut", "repeats", "runs_on", "broken")}
    assert shares == {"cut": 0.25, "repeats": 0.25, "runs_on": 0.25, "broken": 0.25}
    assert found["begins"] == {"median": 5, "quartiles": [5.0, 5.0], "of_answer": 0.25}
    assert breaks(before, after)["begins"] is None
    assert breaks([], [])["broken"] == {"value": 0.0, "interval": None}


# Diversity


def test_distinct_by_hand() -> None:
    """aab and ab: 2 different letters of 5; of pairs aa, ab, ab 2 of 3; no triple but aab."""
    answers = [letters("aab"), letters("ab")]
    found = [distinct(answers, n) for n in (1, 2, 3, 4)]
    assert found == [pytest.approx(0.4), pytest.approx(2 / 3), 1.0, None]


def test_bleu_by_hand() -> None:
    """abcd and abce: 3/4 letters, 2/3 pairs, 1/2 triples, and no four (0.1 of 1)."""
    wanted = (0.75 * 2 / 3 * 0.5 * 0.1) ** 0.25
    assert bleu(letters("abcd"), [letters("abce")]) == pytest.approx(wanted)
    assert bleu(letters("abcd"), [letters("abcd")]) == 1.0
    assert bleu(letters("ab"), [letters("abab")]) == pytest.approx(math.exp(-1))  # brevity
    assert bleu([], [letters("a")]) == bleu(letters("a"), []) == 0.0
    assert bleu(letters("aaa"), [letters("a")]) == pytest.approx((1 / 3 * 0.1 / 2 * 0.1) ** (1 / 3))


def test_self_bleu_of_equal_and_of_different_answers() -> None:
    assert self_bleu([letters("abcd")] * 3) == 1.0
    assert self_bleu([letters("abcd")]) is None
    different = self_bleu([letters("abcd"), letters("efgh")])
    assert different is not None and different < 0.06


def test_diversity_of_prompts_with_empty_answers() -> None:
    found = diversity([[[], []], [[1, 2], [1, 2]]])
    assert found["different"]["value"] == 0.5
    assert found["distinct_1"]["value"] == 0.5 and found["distinct_1"]["interval"] is None


def test_pass_at_k_by_hand() -> None:
    """Two right ones of four: two draws miss both once in six times."""
    assert pass_at(2, 4, 2) == pytest.approx(5 / 6)
    assert pass_at(1, 4, 2) == 0.5
    assert (pass_at(3, 4, 0), pass_at(1, 4, 4), pass_at(3, 4, 2)) == (0.0, 1.0, 1.0)


def test_where_the_curves_cross() -> None:
    """Trained: always right on one prompt of two. Base: right once in three on both.

    k = 1: 1/3 and 1/2; k = 2: 2/3 and 1/2.
    """
    t, f = True, False
    found = passes([[t, f, f], [f, f, t]], [[t, t, t], [f, f, f]])
    assert found is not None
    assert found["rows"][0]["difference"]["value"] == pytest.approx(1 / 6)
    assert found["rows"][1]["difference"]["value"] == pytest.approx(-1 / 6)
    assert (found["crossing"], found["prompts"]) == (2, 2)
    assert found["rows"][0]["before"]["interval"] == pytest.approx([1 / 3, 1 / 3])


def test_curves_that_do_not_cross_and_prompts_without_a_verdict() -> None:
    found = passes([[False, True], []], [[True, True], [True]])
    assert found is not None and (found["crossing"], found["prompts"]) == (None, 1)
    assert passes([[], []], [[], [True]]) is None
