"""Values and names as they stand in an error line."""

from __future__ import annotations

import datetime

import pytest

from polopt.errors import RecipeError
from polopt.recipe import Problem, raise_for, shown
from polopt.recipe.fields import allowed, members, nearest
from polopt.recipe.messages import field_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "3"),
        (2**70, "an integer of 71 bits"),
        (1e-4, "0.0001"),
        (float("nan"), "nan"),
        ("a", '"a"'),
        ("ü\n\x1b[0m\u2028\ud800", '"ü\\n\\x1b[0m\\u2028\\ud800"'),
        ("x" * 100, '"' + "x" * 59 + '…"'),
        ([1, "a"], '[1, "a"]'),
        ({}, "an empty table"),
        ({"a": 1}, "a table"),
        (datetime.date(2024, 1, 1), "a date"),
        (None, "a NoneType"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_field_name() -> None:
    assert field_name(["rewards", 0, "weight"]) == "rewards[0].weight"
    assert field_name(["update", "a\nb"], "rl") == "stage.rl.update.a\\nb"
    assert len(field_name(["x" * 500])) == 80


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ("aab", "1 more: b"),
        ("abcdef", "5 more: b, c, d, e, f"),
        ("abcdefg", "6 more: b, c, d, e, f, …"),
    ],
)
def test_raise_for_says_the_first_and_names_the_others_once(fields: str, more: str) -> None:
    raise_for([])
    with pytest.raises(RecipeError) as caught:
        raise_for([Problem(field, "no") for field in fields])
    assert str(caught.value) == f"a: no (and {more})"


def test_a_line_is_never_too_long() -> None:
    with pytest.raises(RecipeError) as caught:
        raise_for([Problem("a", "x" * 1000), Problem("b", "no")])
    assert len(str(caught.value)) == 300
    assert str(caught.value).endswith("… (and 1 more: b)")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (["update", "learning_rat"], "update.learning_rate"),
        (["update", "lr"], None),
        (["kl", "beta1"], "update.beta1"),
        (["learning_rate"], "update.learning_rate"),
        (["group_sise"], "rollout.group_size"),
        (["modl"], "model"),
        (["zzz"], None),
    ],
)
def test_nearest(path: list[str], meant: str | None) -> None:
    found = nearest(path)
    assert (None if found is None else ".".join(map(str, found))) == meant


def test_allowed_in_words() -> None:
    assert allowed(["rollout", "top_p"]) == "a number > 0 and <= 1"
    assert allowed(["credit", "ddof"]) == "an integer from 0 to 1"
    assert allowed(["run", "device"]) == "auto, cpu, cuda, cuda:N or mps"
    assert allowed(["rewards", 0, "verifier"]) == "task or math"
    assert allowed(["nothing", "here"]) == "nothing"
    assert members(["until"]) == ["at_least", "metric"]
