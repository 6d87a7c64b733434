"""The page of polopt compare in a real browser: it fits, keys reach it, and nothing runs."""

from __future__ import annotations

from pathlib import Path

import hostile
import pytest
from compare_sample import found, inject
from opened_pages import Opened, assert_fits, assert_outline, show, unfold, until
from playwright.sync_api import Browser

from polopt.report.compare import write

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(found(), tmp_path_factory.mktemp("compare"))


def test_arms_have_lines_bands_and_colours_of_their_own(opened: Opened) -> None:
    lines = opened.page.locator("#curves figure").first.locator("polyline")
    assert lines.count() == 3
    strokes = lines.evaluate_all("all => all.map(each => getComputedStyle(each).stroke)")
    assert len(set(strokes)) == 3
    assert opened.page.locator("#curves figure").first.locator("polygon").count() == 3
    for line in lines.all():
        box = line.bounding_box()
        assert box is not None and box["width"] > 300


def test_many_arms_are_told_apart_by_dashes(browser: Browser, tmp_path: Path) -> None:
    opened = show(browser, write(found(tuple("abcdefghijklmnop")), tmp_path))
    looks = (
        opened.page.locator("#curves figure")
        .first.locator("polyline")
        .evaluate_all(
            "all => all.map(each => { const s = getComputedStyle(each);"
            " return s.stroke + s.strokeDasharray; })"
        )
    )
    assert len(set(looks)) == 16
    opened.check()
    opened.page.context.close()


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    assert_fits(browser, page_file, width, scheme)


def test_the_page_has_an_outline(opened: Opened) -> None:
    assert_outline(opened.page)


def test_wide_tables_scroll_by_keys(browser: Browser, page_file: Path) -> None:
    opened = show(browser, page_file, viewport={"width": 390, "height": 844})
    region = opened.page.get_by_role("region", name="Probability of improvement")
    region.focus()
    opened.page.keyboard.press("ArrowRight")
    until(opened.page, "document.querySelector('#improvement .scroll').scrollLeft > 0")
    opened.check()
    opened.page.context.close()


def test_hostile_text_does_nothing(opened: Opened, tmp_path: Path) -> None:
    for text in hostile.STRINGS:
        opened.open(write(inject(text), tmp_path))
        unfold(opened.page)
        assert opened.page.locator("#scores tbody tr").count() == 3, text
        opened.check()


def test_long_names_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    file = write(inject("w" * 300), tmp_path)
    opened = show(browser, file, viewport={"width": 390, "height": 844})
    unfold(opened.page)
    assert opened.fits()
    opened.check()
