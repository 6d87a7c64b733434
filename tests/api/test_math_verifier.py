"""Runs whose answers are judged by math-verify."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import polopt
from polopt import isolated
from polopt.cli import main
from polopt.errors import MissingExtraError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, object]:
    rows = [{"prompt": f"{i}+{i}=", "answer": 2 * i} for i in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": str(tmp_path / "sums.jsonl")},
        "reward": {"verifier": "math"},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 8},
        "evaluation": {"prompts": 4},
        "run": {"steps": 2, "threads": 1, "directory": str(tmp_path / "run")},
    }


def test_without_math_verify_one_line_says_what_to_install(recipe, monkeypatch, tmp_path, capsys):
    line = 'reward.verifier: "math" needs the package math-verify: pip install "polopt[math]"'
    monkeypatch.setitem(sys.modules, "math_verify", None)
    for refused in (polopt.train, polopt.check):
        with pytest.raises(MissingExtraError) as error:
            refused(recipe)
        assert str(error.value) == line
    words = ["--reward.verifier", "math", "--run.directory", str(tmp_path / "run")]
    assert main(["train", "recipes/smoke.toml", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify is not installed")
def test_a_run_is_judged_and_leaves_no_process(recipe, tmp_path):
    polopt.train(recipe)
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert {sample["outcome"] for sample in samples} <= {"ok", "wrong"}
    assert all(sample["parts"].keys() == {"math"} for sample in samples)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert any("accuracy" in line for line in metrics)
    pool = isolated.pool("polopt.isolated.mathematics:prepare")
    assert {*pool._idle.queue} == {None}
