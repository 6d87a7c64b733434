"""What the page says of a KL term, from the newest evaluation that measured it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from sample_run import lines, write_run
from test_page import SMALL, Skeleton, page

from polopt.report import load
from polopt.report.kl import KL, bias, degrees, direction
from polopt.report.kl_terms import KLTerm, kl_terms
from polopt.report.plots import draw

ROW: dict[str, Any] = {"step": 7, "stage": "rl", "stage_step": 2, "kl/exact": 0.1}


@pytest.mark.parametrize(
    ("length", "angle", "said"),
    [
        (None, None, "has no gradient to compare with"),
        (0.0, None, "has no gradient on average: it holds nothing"),
        (1.0, 0.2, "has the gradient of the exact KL"),
        (0.5, 0.2, "points where the exact KL does, 0.5 times as long"),
        (0.8, 12.4, "points 12° away from the gradient of the exact KL, 0.8 times as long"),
    ],
)
def test_a_gradient_in_words(length: float | None, angle: float | None, said: str) -> None:
    assert direction(length, angle) == said


def test_angles_and_biases_in_words() -> None:
    assert (degrees(0.26), degrees(1.4), degrees(89.6)) == ("0.3°", "1°", "90°")
    assert bias(0.1, 0.1) == "the exact KL"
    assert bias(0.11, 0.1) == "10.0\u202f% more than the exact KL"
    assert bias(0.05, 0.1) == "50.0\u202f% less than the exact KL"


def found(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> list[KLTerm]:
    run = write_run(tmp_path / "run", **SMALL)
    lines(run / "metrics.jsonl", list(rows))
    record = load(run)
    record.config["stages"][1]["settings"] |= settings
    return kl_terms(record)


def test_the_newest_measurement_of_each_stage_counts(tmp_path: Path) -> None:
    later = ROW | {"step": 9, "kl/exact": 0.2, "kl/gradient_length": 0.8, "kl/average": 0.2}
    later |= {"kl/gradient_angle": 12.4, "kl/dead_tokens": 0.01, "kl/dead_reference": 0.4}
    later |= {"kl/k1": 0.3, "kl/k1_low": 0.1, "kl/k1_high": 0.5}
    after = {"step": 10, "stage": "rl", "accuracy": 1.0}
    (term,) = found(tmp_path, {"step": 1, "stage": "sft"}, ROW, later, after)
    assert (term.stage, term.step, term.used) == ("rl", 9, "k3 in the loss")
    assert term.sentences == [
        "k3 in the loss points 12° away from the gradient of the exact KL, 0.8 times as long.",
        "Its value is on average the exact KL.",
        "1.0\u202f% of the sampled tokens stand beyond its clamp, where it has no gradient; the "
        "reference gives 40.0\u202f% to tokens there.",
    ]
    assert term.rows == [
        ("exact, over the vocabulary", "0.2"),
        ("what the run uses, on average", "0.2"),
        ("k1 of the sampled tokens", "0.3 (0.1 to 0.5)"),
    ]


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"kl.importance_corrected": True}, "k3 in the loss, times the ratio"),
        ({"kl.estimator": "k1", "kl.placement": "reward"}, "k1 in the reward"),
        ({"kl.estimator": None, "kl.placement": 7}, "the estimator"),
    ],
)
def test_where_the_estimator_acts(tmp_path: Path, settings: dict[str, Any], used: str) -> None:
    (term,) = found(tmp_path, ROW, **settings)
    assert term.used == used


def test_the_reference_itself_and_what_cannot_be_read(tmp_path: Path) -> None:
    (term,) = found(tmp_path, ROW | {"kl/exact": 0.0, "kl/gradient_length": 3.0})
    assert term.sentences == [
        "Policy and reference are the same so far: there is nothing to compare."
    ]
    odd = ROW | {"kl/average": "much", "kl/dead_tokens": None, "kl/gradient_angle": math.inf}
    (term,) = found(tmp_path / "odd", odd)
    assert term.sentences == ["k3 in the loss has no gradient to compare with."]
    assert found(tmp_path / "none", ROW | {"kl/exact": float("nan")}) == []


def test_its_plots_have_a_place_of_their_own_and_are_points() -> None:
    measured = {name: 0.5 for plot in KL for name in plot.lines}
    curves = draw([ROW | measured, ROW | measured | {"step": 8}])
    assert [figure.title for figure in curves.kl] == [plot.title for plot in KL]
    assert {figure.title for figure in (*curves.main, *curves.folded)} == set()
    for figure in curves.kl:
        assert all(line["points"] for line in curves.data["plots"][figure.index]["lines"])
    assert draw([{"step": 1, "stage": "rl", "kl/measured": 1.0}]).kl == []


def test_the_page_has_the_section_where_it_was_measured(tmp_path: Path) -> None:
    text = Skeleton(page(write_run(tmp_path / "run", **SMALL))).text
    assert "What the KL term holds" in text and "k3 in the loss points 27° away" in text
    without = write_run(tmp_path / "without", **SMALL)
    lines(without / "metrics.jsonl", [{"step": 1, "stage": "rl", "kl/measured": 1.0}])
    assert "What the KL term holds" not in page(without)
