"""The page of polopt xray as a file: escaped, whole, and right about what was found."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import hostile
import pytest
from test_page import Skeleton
from xray_sample import found, inject

from polopt.errors import RunDirectoryError
from polopt.report.xray import render, write
from polopt.report.xray.answers import answers
from polopt.report.xray.curves import curves, top
from polopt.report.xray.estimators import estimators
from polopt.report.xray.page import quoted
from polopt.report.xray.words import estimate, sentence


@pytest.fixture(scope="module")
def harmless() -> Skeleton:
    return Skeleton(render(inject("harmless")))


@pytest.mark.parametrize("text", hostile.STRINGS)
def test_text_of_models_stays_text(harmless: Skeleton, text: str) -> None:
    html = render(inject(text))
    assert text not in html
    assert Skeleton(html).elements == harmless.elements
    assert html.count("</script>") == 2


def test_there_are_sixty_hostile_strings() -> None:
    assert len(set(hostile.STRINGS)) >= 60


def test_only_our_script_and_style_may_run() -> None:
    html = unescape(render(found()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src 'none'" in policy[1]
    for tag in ("script", "style"):
        own = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        (digest,) = {
            base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own
        }
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")


def data_of(html: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert block is not None
    return json.loads(block[1])


def test_every_token_is_on_the_page_with_its_numbers() -> None:
    made = found()
    data = data_of(render(made))
    shown = {
        (p["number"] - 1, a["of"], a["draw"]): a["tokens"]
        for p in data["prompts"]
        for a in p["answers"]
    }
    assert len(shown) == len(made["texts"]) == 15
    for one in made["texts"]:
        tokens, own = shown[one["prompt"], one["of"], one["draw"]], one["tokens"]
        for name in ("text", "class", "top_before", "top_after"):
            assert [data["words"][number] for number in tokens[name]] == own[name]
        assert tokens["kl"] == own["kl"] and tokens["rank_before"] == own["rank_before"]
    assert data["totals"]["after"] == pytest.approx(
        sum(sum(one["tokens"]["kl"]) for one in made["texts"] if one["of"] == "after")
    )


def test_prompts_come_in_the_order_of_their_change() -> None:
    made = found(given=False)
    for one in made["texts"]:
        one["tokens"]["kl"] = [0.1 * (one["prompt"] == 1) + 0.01] * len(one["tokens"]["kl"])
    data, left_out = answers(made)
    assert data["prompts"][0]["number"] == 2 and left_out == 0


def test_a_page_holds_so_many_answers_and_says_how_many_are_left_out() -> None:
    made = found(prompts=40, draws=2, text="1234567890" * 100, given=False)  # 80,000 tokens twice
    shown, left_out = answers(made)
    assert left_out > 0 and len(shown["prompts"]) > 1
    assert left_out + sum(len(p["answers"]) for p in shown["prompts"]) == 160
    assert f"{left_out:,} more answers" in render(made)


def test_a_copy_says_that_nothing_changed() -> None:
    html = render(found(changed=False))
    assert "Nothing changed: both models" in html and "the likeliest token is the same" in html


def test_models_that_wrote_nothing() -> None:
    made = found(given=False)
    made |= {"sets": [], "texts": [], "pass": None}
    for side in ("before", "after"):
        made["breaks"][side]["begins"] = None
        made["diversity"][side] = made["figures"][side] = {}
    html = render(made)
    assert "Neither model wrote a token" in html and "Nothing says which answers" in html


def test_the_sentence_names_where_the_most_changed() -> None:
    said = sentence(found())
    assert said.startswith("An answer of the trained model is 1.5 (1.4 to 1.6) nats from the base.")
    assert "in the class “first token”, which has 20.0" in said


def test_figures_in_words() -> None:
    assert estimate(None) == estimate({"value": None, "interval": None}) == "–"
    assert estimate({"value": 0.5, "interval": None}) == "0.5"
    assert estimate({"value": 0.5, "interval": [0.4, 0.6]}) == "0.5 (0.4 to 0.6)"
    assert quoted(" \n") == "␣↵" and quoted("") == "(nothing)"


def test_lines_of_pass_at_k_by_hand() -> None:
    """Two points on a scale to 0.5: 0.25 is in the middle, 0.5 at the top."""
    rows = [
        {"k": k, **{side: {"value": value, "interval": None} for side in ("before", "after")}}
        for k, value in ((1, 0.25), (2, 0.5))
    ]
    assert top(rows) == 0.5
    before, _ = curves(rows)
    assert (before.line, before.band) == ("0.00,50.00 100.00,0.00", "")
    alone = curves(rows[:1])[0]
    assert alone.line == "0.00,50.00"
    assert top([]) == 0.01


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"^--out: .*: Is a directory$"):
        write(found(), tmp_path)


def test_estimators_of_the_kl_beside_the_exact_one() -> None:
    shown = estimators(found())
    assert shown is not None and shown.exact == "0.12 (0.02 to 0.22)"
    assert shown.sentence == (
        "The run had k3 in the loss, which points 12° away from the gradient of the exact KL, "
        "0.8 times as long."
    )
    loss, corrected, reward = zip(*(one.gradients for one in shown.rows), strict=True)
    away = "12°, 0.80×"
    assert loss == (("none on average", False), ("exact", False), (away, True))
    assert corrected == (("exact", False), (away, False), ("exact", False))
    assert reward == (("exact", False), (away, False), (away, False))
    assert [one.bias for one in shown.rows] == ["none", "+3.1\u202f%", "none"]
    assert [one.dead for one in shown.rows] == ["none", "none", "0.0\u202f%, 2.0\u202f%"]
    assert '<b class="used">12°, 0.80×</b>' in render(found())


def test_estimators_that_could_not_be_compared() -> None:
    made = found()
    made["trained"]["kl"] = None
    for one in made["estimators"]["estimators"]:
        nothing = {"value": None, "interval": None}
        one |= {"sampled": nothing, "average": None, "bias": None}
        one["gradients"] = dict.fromkeys(one["gradients"])
    shown = estimators(made)
    assert shown is not None and shown.sentence == ""
    row = shown.rows[0]
    assert (row.sampled, row.average, row.bias) == ("–", "–", "–")
    assert row.gradients == [("–", False)] * 3
    made["estimators"] = None
    assert estimators(made) is None and 'id="estimators"' not in render(made)
