"""The page of polopt xray in a real browser: tokens tell their numbers, and nothing else runs."""

from __future__ import annotations

from pathlib import Path

import hostile
import pytest
from opened_pages import Opened, assert_fits, assert_outline, show, unfold
from playwright.sync_api import Browser
from xray_sample import found, inject

from polopt.report.xray import write

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(found(), tmp_path_factory.mktemp("xray") / "x.html")


def test_a_token_tells_its_numbers_where_one_points(opened: Opened) -> None:
    page = opened.page
    told = page.locator("#told")
    assert not told.is_visible()
    token = page.locator(".read").nth(1).locator(".tok").nth(4)
    token.hover()
    assert told.is_visible()
    said = told.inner_text()
    assert said.startswith("token 5, 1 (numbers): probability 0.")
    assert "rank 2 → 1" in said and "entropy 0.5 → 0.25" in said and "of all in the" in said
    assert said.endswith("likeliest > → 1")


def test_a_token_is_reached_by_keys_alone(opened: Opened) -> None:
    page = opened.page
    answers = page.locator(".read")
    assert answers.count() == 5  # two of each model, one that is given
    answers.first.focus()
    told = page.locator("#told")
    assert told.inner_text().startswith("token 1,")
    for key, begins in (
        ("ArrowRight", "token 2,"),
        ("End", "token 13,"),
        ("ArrowLeft", "token 12,"),
        ("Home", "token 1,"),
    ):
        page.keyboard.press(key)
        assert told.inner_text().startswith(begins)
    page.keyboard.press("ArrowLeft")  # there is none before the first
    assert told.inner_text().startswith("token 1,")
    page.keyboard.press("Tab")
    assert answers.nth(1).evaluate("each => each === document.activeElement")
    assert page.locator("[aria-live]").count() == 1


def test_colour_and_line_say_which_way_and_how_far(browser: Browser, tmp_path: Path) -> None:
    made = found(prompts=1, draws=1, text="abc", given=False)
    for one in made["texts"]:
        one["tokens"] |= {
            "kl": [0.0, 0.3, 2.0],
            "p_before": [0.5, 0.5, 0.5],
            "p_after": [0.5, 0.9, 0.1],
        }
    opened = show(browser, write(made, tmp_path / "x.html"))
    tokens = opened.page.locator(".read").last.locator(".tok")
    assert [token.get_attribute("class") for token in tokens.all()] == [
        "tok up u0",
        "tok up u3",
        "tok down u4",
    ]
    lines = [t.evaluate("each => getComputedStyle(each).textDecorationLine") for t in tokens.all()]
    assert lines == ["none", "none", "underline"]
    grounds = [t.evaluate("each => getComputedStyle(each).backgroundColor") for t in tokens.all()]
    assert len(set(grounds)) == 3
    opened.check()


def test_answers_are_browsed_by_prompt(opened: Opened) -> None:
    page = opened.page
    prompt = page.locator("#pairs h3")
    first = prompt.inner_text()
    assert page.get_by_role("button", name="Prompt before").is_disabled()
    page.get_by_role("button", name="Prompt after").click()
    assert prompt.inner_text() != first
    slider = page.get_by_role("slider", name="Prompt")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext").startswith("3 of 3, prompt ")
    assert page.get_by_role("button", name="Prompt after").is_disabled()


def test_where_repetition_begins_is_marked(opened: Opened) -> None:
    repeating = opened.page.locator(".read").nth(3)
    marked = [
        i
        for i, t in enumerate(repeating.locator(".tok").all())
        if "again" in (t.get_attribute("class") or "")
    ]
    assert marked == list(range(4, 13))
    assert "repeats itself from token 5 on" in opened.page.locator(".sides").nth(1).inner_text()


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    assert_fits(browser, page_file, width, scheme)


def test_the_page_has_an_outline(opened: Opened) -> None:
    assert_outline(opened.page)


def test_hostile_text_does_nothing(opened: Opened, tmp_path: Path) -> None:
    for text in hostile.STRINGS:
        opened.open(write(inject(text), tmp_path / "x.html"))
        unfold(opened.page)
        assert opened.page.locator(".read").count() == 5, text
        opened.page.locator(".tok").first.hover()
        opened.page.locator(".read").last.focus()
        opened.page.get_by_role("button", name="Prompt after").click()
        opened.check()


def test_long_words_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    file = write(inject("w" * 500), tmp_path / "x.html")
    opened = show(browser, file, viewport={"width": 390, "height": 844})
    unfold(opened.page)
    opened.page.locator(".tok").first.hover()
    assert opened.fits()
    opened.check()


def test_five_thousand_answers_open_in_two_seconds(browser: Browser, tmp_path: Path) -> None:
    file = write(found(prompts=312, draws=8, given=False), tmp_path / "x.html")
    opened = show(browser, file)
    loaded = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert opened.page.locator(".read").count() == 16
    assert opened.page.evaluate(loaded) < 2_000
    opened.check()


def test_answers_of_the_training_tell_advantage_and_bound(
    browser: Browser,
    tmp_path: Path,
) -> None:
    data = found()
    for text in [text for text in data["texts"] if text["of"] == "given"]:
        count = len(text["tokens"]["kl"])
        sides = ["", "high", *[""] * (count - 2)]
        text["tokens"] |= {"advantage": [0.5] * (count - 1) + [None], "clipped": sides}
    opened = show(browser, write(data, tmp_path / "x.html"))
    page = opened.page
    page.locator(".read", has=page.locator(".held")).focus()
    told = page.locator("#told")
    assert told.inner_text().endswith("; advantage 0.5, not clipped")
    page.keyboard.press("ArrowRight")
    assert told.inner_text().endswith("; advantage 0.5, clipped above")
    page.keyboard.press("End")
    assert told.inner_text().endswith("; took no part in the update")
    page.locator(".read").first.focus()
    assert "advantage" not in told.inner_text()
    opened.check()
    page.context.close()
