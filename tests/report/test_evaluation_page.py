"""The page of polopt eval as a file: escaped, and drawn by rules that there are."""

from __future__ import annotations

import re

import evaluation_sample
import hostile
import pytest
from test_page import Skeleton


@pytest.fixture(scope="module")
def harmless() -> Skeleton:
    return Skeleton(evaluation_sample.page("harmless", target="harmless"))


@pytest.mark.parametrize("text", hostile.STRINGS)
def test_text_of_an_evaluation_stays_text(harmless: Skeleton, text: str) -> None:
    html = evaluation_sample.page(text, target=text)
    assert text not in html
    assert Skeleton(html).elements == harmless.elements


def test_every_class_has_a_rule() -> None:
    html = evaluation_sample.page()
    style, body = re.findall(r"<style>(.*?)</style>(.*)", html, re.DOTALL)[0]
    classes = {name for some in re.findall(r'class="([^"]*)"', body) for name in some.split()}
    assert "measured" in classes
    assert [name for name in sorted(classes) if not re.search(rf"\.{name}(?![\w-])", style)] == []


def test_figures_by_hand() -> None:
    """Accuracy on an axis from 0 to 1; lengths from 11.9 to 13.2: 12.25 lies 0.35/1.3 along it."""
    text = re.sub(r"\s+", " ", evaluation_sample.page())
    assert "<h3>accuracy <small>axis from 0 to 1</small></h3>" in text
    assert '<rect x="55.00%" width="14.00%" y="4" height="14" rx="4"/> <circle cx="62.00%"' in text
    assert "<h3>length <small>axis from 11.9 to 13.2</small></h3>" in text
    assert '<circle cx="26.92%"' in text
    assert "<b>0.62</b> <small>0.55 to 0.69</small>" in text
