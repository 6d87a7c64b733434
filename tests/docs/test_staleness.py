"""benchmarks/staleness.py: what the page shows is what was measured, with seeds of its commit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fenced import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import staleness
import staleness_plot

RESULTS = staleness.recorded()


def test_how_alike_letters_are() -> None:
    found = [staleness.alike(letters) for letters in ([3] * 6, [*range(6)], [0, 0, 0, 1, 1, 2])]
    assert found == pytest.approx([1, 0, (1 / 2 - 1 / 6) / (5 / 6)])


def test_the_seeds_are_those_of_the_commit_and_no_cell_is_left_out() -> None:
    seeds = staleness.drawn(RESULTS["commit"], staleness.COUNT)
    assert RESULTS["seeds"] == seeds
    measured = [(one["staleness"], one["answer"], one["seed"]) for one in RESULTS["runs"]]
    assert sorted(measured) == sorted((*cell, seed) for cell in staleness.CELLS for seed in seeds)
    assert RESULTS["settings"] == dict(staleness.BASE)


def test_lag_was_what_it_is_said_to_be() -> None:
    for one in RESULTS["runs"]:
        if one["answer"] in ("none", "token", "sequence", "decoupled"):
            assert one["lag"] == one["lag_max"] == one["staleness"]
        if one["answer"] == "age cut":
            assert one["lag_max"] <= one["staleness"] // 2


def test_the_plot_is_of_the_results(tmp_path: Path) -> None:
    drawn = staleness_plot.IMAGE.read_text(encoding="utf-8")
    assert staleness_plot.fingerprint(RESULTS["runs"]) in drawn
    staleness_plot.draw(RESULTS, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").stat().st_size > 1000


def test_a_run_is_repeated_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "STEPS", 6)
    monkeypatch.setattr(staleness, "BASE", {**staleness.BASE, "run.steps": 6})
    lines, said = staleness.lines_of(2, "all", 5)
    again, _ = staleness.lines_of(2, "all", 5)
    assert lines == again and len(lines) == 6
    assert said == [] or "target_mismatch" in said[0]


def test_simulated_time_overlaps_only_where_something_is_ahead() -> None:
    step = {"made/responses": 32.0, "made/reward": 0.5}
    assert [at for _, at, _ in staleness.curve_of([step] * 2, False)] == [3, 6]
    assert [at for _, at, _ in staleness.curve_of([step] * 2, True)] == [2, 4]
    lowered = {**step, "controller/staleness": 0.0}
    assert [at for _, at, _ in staleness.curve_of([step, lowered], True)] == [2, 5]
    half = {"made/responses": 16.0, "made/reward": 0.5}
    assert [at for _, at, _ in staleness.curve_of([half, half], True)] == [1, 2]
    assert list(staleness.curve_of([{"made/responses": 0.0}], True)) == []
