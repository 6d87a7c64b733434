"""docs/run_directory.md explains what a run writes: every file, metric, figure and column."""

import json
from pathlib import Path
from typing import Any

import pytest
from fenced import ROOT

import polopt

PAGE = (ROOT / "docs" / "run_directory.md").read_text(encoding="utf-8")
BOOKKEEPING = {"step", "stage", "stage_step"}
SHORT = {
    "sft.run.steps": 2,
    "rl.run.steps": 3,
    "evaluation.every": 1,
    "run.checkpoint_every": 1,
    "rl.objective.dual_clip": 3.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("described") / "run"
    flags = {**SHORT, "run.directory": str(directory)}
    return polopt.train(ROOT / "recipes" / "smoke.toml", flags=flags).directory


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def described(name: str) -> bool:
    """By its own name, or as one of a family: ``task/worked`` by ``task/NAME``."""
    family = name.rpartition("/")[0]
    return f"`{name}`" in PAGE or bool(family and f"`{family}/NAME`" in PAGE)


def test_metrics(run: Path) -> None:
    names = {name for line in lines(run / "metrics.jsonl") for name in line} - BOOKKEEPING
    assert {"reward/mean", "policy/nll", "policy/kl_reference", "eval/accuracy"} <= names
    assert sorted(name for name in names if not described(name)) == []


def test_a_metric_that_no_page_names_is_found() -> None:
    assert not described("policy/unheard_of")


def test_keys_of_the_timeline(run: Path) -> None:
    found = lines(run / "timeline.jsonl")
    names = {name for line in found for name in line} | {line["what"] for line in found}
    assert {"generate", "score", "update", "publish", "save", "who", "tickets"} <= names
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_columns_of_samples(run: Path) -> None:
    names = {name for line in lines(run / "samples.jsonl") for name in line}
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_figures_of_the_summary(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    ends = ("_before", "_after", "_interval")
    plain = [key for key in summary if not key.endswith(ends)]
    assert sorted(key for key in plain if f"`{key}`" not in PAGE) == []
    assert sorted(kind for kind in summary["seconds"] if f"`{kind}`" not in PAGE) == []
    assert sorted(key for key in summary["stages"][0] if f"`{key}`" not in PAGE) == []


def test_files(run: Path) -> None:
    top = {path.name for path in run.iterdir()} - {"checkpoints"}
    last = run / "checkpoints" / "last"
    inside = {path.relative_to(last).as_posix() for path in last.rglob("*") if path.is_file()}
    assert sorted(name for name in top | inside if f"`{name}`" not in PAGE) == []
    for name in ("last", "best", "sft", "rl"):
        assert (run / "checkpoints" / name).is_symlink()
