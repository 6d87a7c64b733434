"""The page of polopt compare as a file: escaped, whole, and right about what was found."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import hostile
import pytest
from compare_sample import found, inject
from test_page import Skeleton

from polopt.errors import RunDirectoryError
from polopt.report.compare import render, write
from polopt.report.compare.drawn import drawing, look
from polopt.report.compare.words import estimate, sentence


@pytest.fixture(scope="module")
def harmless() -> Skeleton:
    return Skeleton(render(inject("harmless")))


@pytest.mark.parametrize("text", hostile.STRINGS)
def test_text_of_runs_stays_text(harmless: Skeleton, text: str) -> None:
    html = render(inject(text))
    assert text not in html
    assert Skeleton(html).elements == harmless.elements


def test_no_script_runs() -> None:
    html = unescape(render(found()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src 'none'" in policy[1]
    assert "<script" not in html
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")


def test_every_arm_and_run_is_on_the_page() -> None:
    html = render(found())
    for arm in found()["arms"]:
        for run in arm["runs"]:
            assert run["directory"] in html
    assert "the run ended: policy/loss is NaN in step 3" in html
    assert "1 failed" in html and "0.80 (0.60 to 1.00)" in html
    assert "Every run is cut at 12,000 tokens generated" in html
    assert "objective.bound" in html


def test_few_seeds_say_nothing_and_the_page_says_that() -> None:
    html = render(found(seeds=2, failed=0))
    assert "so few seeds say nothing" in html and "A band needs 3 runs" in html
    assert "may be chance alone" in sentence(found(seeds=2, failed=0))
    assert "<polygon" not in html


def test_an_arm_that_failed_altogether() -> None:
    html = render(found(seeds=3, failed=3))
    assert html.count("policy/loss is NaN") == 3


def test_where_every_run_failed_the_page_says_why_and_nothing_else() -> None:
    made = found(("grpo", "rloo"), seeds=2, failed=2)
    made |= {"metric": None, "budget": None, "training": None, "improvement": []}
    made["arms"][0] |= {"finished": 0, "failed": 2, "runs": made["arms"][1]["runs"]}
    html = render(made)
    assert "Every run failed (4 of 4), so there is nothing to compare." in html
    assert html.count("policy/loss is NaN") == 4 and html.count('<b class="bad">failed</b>') == 4
    sections = re.findall(r'<section id="(\w+)">', html)
    assert sections == ["failed", "differences", "runs"]
    assert [f"#{name}" for name in sections] == re.findall(r'<li><a href="(#\w+)">', html)


def test_the_sentence_says_from_whom_the_first_cannot_be_told() -> None:
    made = found(failed=0)
    assert sentence(made).endswith(" These seeds put it ahead of every other arm.")
    made["improvement"][0]["interval"] = [0.5, 1.0]
    assert sentence(made).endswith("It cannot be told from rloo.")
    assert sentence(found()).endswith("1 run failed.")


def test_control_has_returns() -> None:
    made = found(is_share=False)
    assert estimate(made, {"value": 321.5, "interval": [300.0, 340.25]}) == "321.5 (300 to 340.2)"
    assert "Judged by mean return on starts" in render(made)


def test_lines_by_hand() -> None:
    """Two points on a scale to 1, of a budget of 10: 0.25 lies three quarters down."""
    point = {"at": 0, "value": 0.25, "interval": [0.0, 0.5]}
    curve = [point, {**point, "at": 10, "value": 1.0, "interval": [1.0, 1.0]}]
    arms = [{"name": "a", "curve": curve, "runs": [{"curve": [[0, 0.5], [5, 0.5]]}]}]
    (line,) = drawing(arms, 10.0, "curve").lines
    assert line.line == "0.00,75.00 100.00,0.00"
    assert line.band == "0.00,50.00 100.00,0.00 100.00,0.00 0.00,100.00"
    assert line.runs == ["0.00,50.00 50.00,50.00"]
    assert (look(0), look(7)) == ("l0 s0", "l1 s1")


def test_page_and_json_are_written(tmp_path: Path) -> None:
    page = write(found(), tmp_path / "new" / "place")
    assert page.name == "compare.html" and page.is_file()
    assert json.loads((page.parent / "compare.json").read_text()) == found()
    with pytest.raises(RunDirectoryError, match=r"compare.html' cannot be written: "):
        write(found(), page)
