"""benchmarks/quickstart.py: its arithmetic, one short run, its table, what it ends with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fenced import ROOT

sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import quickstart
import speed


def one(sft: float, rl: float, accuracy: float = 0.97) -> dict[str, Any]:
    """A run."""
    seconds, steps = {"sft": sft, "rl": rl}, {"sft": 750, "rl": 80}
    return {"seconds": seconds, "steps": steps, "accuracy": accuracy}


def of(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> dict[str, Any]:
    """A result."""
    return {
        "before": "abc",
        "goal": quickstart.GOAL,
        "runs": {"then": then, "now": now},
        "ratios": quickstart.compared(then, now),
        "instructions": ["avx2"],
        "date": "2026-01-01",
        "versions": {"torch": "2.13"},
    }


THEN = [one(60, 40), one(120, 80), one(50, 50)]
NOW = [one(30, 10), one(60, 40), one(30, 30)]


def test_ratios_are_those_of_runs_in_the_same_turn() -> None:
    found = quickstart.compared(THEN, NOW)
    assert {stage: ratio["median"] for stage, ratio in found.items()} == {
        "sft": 0.5,  # of 0.5, 0.5, 0.6
        "rl": 0.5,  # of 0.25, 0.5, 0.6
        "all": 0.5,  # of 0.4, 0.5, 0.6
    }
    assert found["rl"]["interval"] == [0.25, 0.6]


def test_a_stage_that_ends_sooner_is_compared_for_as_many_steps_too() -> None:
    sooner = one(30, 10)
    sooner["steps"]["sft"] = 500  # of 750: 45 seconds for as many
    found = quickstart.compared([one(60, 40)], [sooner])
    assert {stage: ratio["as_many_steps"] for stage, ratio in found.items()} == {
        "sft": 0.75,
        "rl": 0.25,
        "all": 0.55,
    }
    assert found["sft"]["median"] == 0.5


def test_what_is_too_slow_or_learns_nothing_is_said() -> None:
    assert quickstart.failures(of(THEN, NOW)) == []
    assert quickstart.failures(of(NOW, NOW)) == ["seconds: 1.0 of those of 3ef3acd"]
    dull = [one(30, 10, accuracy=0.4), *NOW[1:]]
    assert quickstart.failures(of(THEN, dull)) == ["accuracy: [0.4, 0.97, 0.97]"]


def test_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert speed.TABLES["quickstart"](ROOT, "") == "Not measured yet."
    (results / "quickstart.json").write_text(json.dumps(of(THEN, NOW)), encoding="utf-8")
    text = speed.TABLES["quickstart"](ROOT, "")
    assert "commits abc and the one of these figures in turns, 3 times each" in text
    line = "| sft | 60.0 s, 750 steps | 30.0 s, 750 steps | 0.50 (0.50 to 0.60) |  | 0.50 |"
    assert line in text
    assert "| all | 100.0 s | 60.0 s | 0.50 (0.40 to 0.60) | ≤ 0.6 | 0.50 |" in text


def test_a_quickstart_runs_from_its_sources(tmp_path: Path) -> None:
    short = ["--sft.run.steps", "2", "--sft.evaluation.prompts", "4", "--rl.run.steps", "1"]
    short += ["--rl.evaluation.prompts", "4"]
    found = quickstart.run(ROOT / "src", tmp_path / "run", *short)
    assert found["steps"] == {"sft": 2, "rl": 1}
    assert min(found["seconds"].values()) > 0
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_sources_of_a_commit_are_unpacked(tmp_path: Path) -> None:
    assert (quickstart.sources("HEAD", tmp_path) / "polopt" / "__init__.py").is_file()
    with pytest.raises(SystemExit, match="nowhere: not in this clone; git fetch --unshallow"):
        quickstart.sources("nowhere", tmp_path)


def test_the_commit_then_had_the_same_recipe() -> None:
    """Otherwise the ratio says nothing."""
    file = "src/polopt/recipes/quickstart.toml"
    done = subprocess.run(
        ["git", "show", f"{quickstart.BEFORE}:{file}"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a clone without its history")
    assert done.stdout == (ROOT / file).read_bytes()
