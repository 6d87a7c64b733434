"""The page of polopt eval in a real browser: bars and dots are seen, and nothing runs."""

from __future__ import annotations

from pathlib import Path

import evaluation_sample
import hostile
import pytest
from opened_pages import assert_fits, assert_outline, show
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def written(directory: Path, *text: str) -> Path:
    file = directory / "report.html"
    file.write_text(evaluation_sample.page(*text), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dot_is_seen_on_its_bar_and_the_bar_on_its_axis(
    browser: Browser,
    tmp_path: Path,
    scheme: str,
) -> None:
    opened = show(browser, written(tmp_path), color_scheme=scheme)
    assert_outline(opened.page)
    (one, *_) = opened.page.locator(".measured svg").all()
    look = "each => { const s = getComputedStyle(each); return [s.fill, s.stroke, s.opacity]; }"
    bar, dot, axis = (one.locator(name).evaluate(look) for name in ("rect", "circle", "line"))
    assert bar[0] == dot[0] != "rgb(0, 0, 0)" and float(bar[2]) < 0.5 and dot[2] == "1"
    assert axis[1] not in ("none", dot[0])
    opened.check()
    opened.page.context.close()


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    assert_fits(browser, written(tmp_path), width, scheme)


def test_long_names_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    opened = show(browser, written(tmp_path, "w" * 300), viewport={"width": 390, "height": 844})
    assert opened.fits()
    opened.check()
    opened.page.context.close()


def test_hostile_text_does_nothing(browser: Browser, tmp_path: Path) -> None:
    opened = show(browser, written(tmp_path))
    for text in hostile.STRINGS:
        opened.open(written(tmp_path, text))
        assert opened.page.locator(".measured").count() == 8, text
        opened.check()
    opened.page.context.close()
