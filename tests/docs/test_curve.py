"""benchmarks/curve.py draws what metrics.jsonl holds."""

import json
import runpy
from pathlib import Path

import pytest
from fenced import ROOT

CURVE = runpy.run_path(str(ROOT / "benchmarks" / "curve.py"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        {"step": 4, "stage": "rl", "stage_step": 1, "accuracy": 0.25, "eval/accuracy": 0.5},
        {"step": 5, "stage": "rl", "stage_step": 2, "accuracy": 0.75},
        {"step": 3, "stage": "sft", "stage_step": 3, "accuracy": 0.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_series_has_the_steps_of_its_stage_and_no_gaps(run: Path) -> None:
    rows = CURVE["rows_of"](run, "rl")
    assert CURVE["series"](rows, "accuracy") == ([1, 2], [0.25, 0.75])
    assert CURVE["series"](rows, "eval/accuracy") == ([1], [0.5])


def test_the_same_numbers_give_the_same_file(run: Path, tmp_path: Path) -> None:
    rows = CURVE["rows_of"](run, "rl")
    for name in ("a.svg", "b.svg"):
        CURVE["draw"](rows, [["accuracy", "eval/accuracy"], ["accuracy"]], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "eval/accuracy" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_unknown_names_are_said_with_those_that_are_there(run: Path) -> None:
    with pytest.raises(SystemExit, match="no stage 'warm'; there are: rl, sft"):
        CURVE["rows_of"](run, "warm")
    with pytest.raises(SystemExit, match=r"no metric 'loss'; there are: accuracy, eval/accuracy"):
        CURVE["series"](CURVE["rows_of"](run, "rl"), "loss")
