"""Numbers, durations and hidden characters as the page writes them."""

import pytest

from polopt.report.text import duration, number, percent, setting, visible, with_unit


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\x00b", "a‹U+0000›b"),
        ("\x1b[31mred", "‹U+001B›[31mred"),
        ("line\r\nnext\ttab", "line‹U+000D›\nnext\ttab"),
        ("\x7f\x9b", "‹U+007F›‹U+009B›"),
        ("a\u202etxt.exe", "a‹U+202E›txt.exe"),
        ("\u2066\u200b\ufeff\u2028", "‹U+2066›‹U+200B›‹U+FEFF›‹U+2028›"),
        ("\ud800", "‹U+D800›"),
        ("ordinary: Grüße, 数学, 👩‍👩‍👧", "ordinary: Grüße, 数学, 👩‍👩‍👧"),
    ],
)
def test_hidden_characters_become_visible(hidden: str, shown: str) -> None:
    assert visible(hidden) == shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.0, "1"), (0.012346, "0.01235"), (1.5e-7, "1.5e-07"), (123456.7, "123,457")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.0004, "under 1 ms"),
        (0.0214, "21 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.1 s"),
        (6.12, "6.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (98.6, "1 min 39 s"),
        (3599.6, "1 h 0 min"),
        (7530, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert plain(duration(seconds)) == text


def test_units() -> None:
    assert plain(percent(0.4863)) == "48.6 %"
    assert plain(with_unit(0.5, "share")) == "50.0 %"
    assert plain(with_unit(0.5, "seconds")) == "0.5 s"
    assert with_unit(0.5, "number") == "0.5"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "true"), ("clip", "clip"), (1e-4, "0.0001"), ({"n": 1}, '{"n": 1}')],
)
def test_settings_are_written_as_in_a_recipe(value: object, text: str) -> None:
    assert setting(value) == text
