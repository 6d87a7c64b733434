"""The pictures of the pages: those that docs show are there, small, and made by one command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import screenshots
from fenced import PAGES

LARGEST = 150 << 10  # bytes


def shown() -> set[str]:
    """The pictures that pages show, by their names."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    return {*re.findall(r"!\[[^\]]+\]\((?:docs/)?img/screens/([^)]+)\)", text)}


def test_every_picture_is_shown_and_made_by_the_command() -> None:
    there = {path.name for path in screenshots.PLACE.iterdir()}
    assert there == {*screenshots.PICTURES} == shown()


@pytest.mark.parametrize("name", screenshots.PICTURES)
def test_pictures_are_small(name: str) -> None:
    assert 5 << 10 < (screenshots.PLACE / name).stat().st_size <= LARGEST


def test_the_terminal_loads_nothing_and_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    svg = screenshots.terminal(tmp_path)
    assert "url(" not in svg.replace("url(#", "") and "href" not in svg and "@font" not in svg
    assert "step&#160;28&#160;of&#160;40" in svg and str(tmp_path) not in svg
    assert screenshots.terminal(tmp_path / "again") == svg  # only what changed differs


@pytest.mark.browser
def test_the_command_makes_them_all(tmp_path: Path) -> None:
    screenshots.make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*screenshots.PICTURES}
    for name, page in screenshots.PAGES.items():
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and 5 << 10 < len(data) <= LARGEST
        size = [int.from_bytes(data[place : place + 4], "big") for place in (16, 20)]
        assert size == [screenshots.WIDTH, page.height], name
