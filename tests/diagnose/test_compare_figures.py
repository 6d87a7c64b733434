"""From run directories to the figures of a comparison: cut at the budget, failed, refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polopt.diagnose.compare.arms import Arm, grouped
from polopt.diagnose.compare.compared import compared
from polopt.diagnose.compare.read import read
from polopt.errors import RecipeError, RunDirectoryError

Points = Sequence[tuple[float, float]]  # tokens until then, accuracy


def write(
    directory: Path,
    points: Points = ((0, 0.1), (100, 0.3), (300, 0.7)),
    *,
    algorithm: str = "grpo",
    seed: int = 1,
    ended: bool = True,
    warning: str = "",
    metric: str = "eval/accuracy",
    unit: str = "tokens",
    extra: dict[str, float] | None = None,
    **settings: Any,
) -> Path:
    """A run with a step between each two evaluations: 2 seconds, reward 1/2."""
    table = {
        "algorithm": algorithm,
        "data.source": "task:reverse",
        "evaluation.prompts": 8,
        "run.seed": seed,
        "run.steps": len(points) - 1,
        "run.directory": str(directory),
        **settings,
    }
    stage = {"name": "rl", "algorithm": algorithm, "settings": table}
    directory.mkdir(parents=True)
    (directory / "checkpoints").mkdir()
    (directory / "config.json").write_text(json.dumps({"name": "recipe", "stages": [stage]}))
    lines, before = list[dict[str, Any]](), 0.0
    for step, (spent, value) in enumerate(points):
        line: dict[str, Any] = {"step": step, "stage": "rl", "stage_step": step, metric: value}
        if step:
            line |= {unit: spent - before, "time/step": 2.0, "reward/mean": 0.5, **(extra or {})}
            line["response/length"] = 4.0
        lines.append(line)
        before = spent
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if warning:
        (directory / "warnings.jsonl").write_text(json.dumps({"message": warning}) + "\n")
    if ended:
        summary = {"stages": [{"name": "rl"}], "memory_peak": 1 << 30}
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def arm(name: str, *runs: Path) -> Arm:
    return Arm(name, [read(run) for run in runs])


def test_every_run_is_cut_at_the_smallest_budget(tmp_path: Path) -> None:
    """300 tokens against 200: at 200 the first stands half way between 0.3 and 0.7."""
    long = write(tmp_path / "a", ((0, 0.1), (100, 0.3), (300, 0.7)))
    short = write(tmp_path / "b", ((0, 0.1), (200, 0.4)), algorithm="rloo")
    found = compared([arm("long", long), arm("short", short)])
    assert found["budget"] == {
        "unit": "tokens",
        "said": "tokens generated",
        "value": 200.0,
        "largest": 300.0,
    }
    one, other = found["arms"]
    assert one["score"]["value"] == pytest.approx(0.5) and other["score"]["value"] == 0.4
    assert one["runs"][0]["curve"] == [[0, 0.1], [100, 0.3], [200, pytest.approx(0.5)]]
    assert [point["at"] for point in one["curve"]] == [0, 100, 200]
    assert [point["value"] for point in other["curve"]] == pytest.approx([0.1, 0.25, 0.4])
    assert (one["spent"], one["seconds"], one["seconds_to_budget"]) == (300, 4.0, 3.0)
    assert (one["steps"], one["memory"], one["before"]["value"]) == (2, 1 << 30, 0.1)
    assert one["training"]["value"] == 0.5 and found["training"] == "reward/mean"
    assert {(r["arm"], r["value"]) for r in found["improvement"]} == {("long", 1.0), ("short", 0.0)}
    assert {row["field"] for row in found["differences"]} == {"algorithm", "run.steps"}
    json.dumps(found, allow_nan=False)


def test_tokens_that_were_thrown_away_count(tmp_path: Path) -> None:
    """100 and 200 trained on, and 50 of replaced groups with 10 of greedy ones at each step."""
    thrown = {"resampled_tokens": 50.0, "greedy_tokens": 10.0}
    runs = [write(tmp_path / "a", extra=thrown), write(tmp_path / "b", extra=thrown)]
    found = compared([arm("a", runs[0]), arm("b", runs[1])])
    assert found["budget"]["value"] == 300 + 2 * 60


def test_steps_of_environments_are_the_budget_of_control(tmp_path: Path) -> None:
    runs = [
        write(
            tmp_path / name,
            metric="eval/return_mean",
            unit="steps",
            **{"data.source": "control:cartpole"},
        )
        for name in "ab"
    ]
    found = compared([arm("a", runs[0]), arm("b", runs[1])])
    assert (found["domain"], found["budget"]["said"]) == ("control", "steps in environments")
    assert found["metric"] == {"name": "return_mean", "said": "mean return", "is_share": False}


def test_a_run_that_failed_is_counted_and_shown(tmp_path: Path) -> None:
    """Three against three, one failed: 2 of 3 pairs are wins, whatever the rest."""
    lines = [write(tmp_path / f"a{seed}", seed=seed) for seed in (1, 2, 3)]
    rest = [write(tmp_path / f"b{seed}", seed=seed, algorithm="rloo") for seed in (1, 2)]
    why = "the run ended: policy/loss is NaN"
    gone = write(tmp_path / "b3", ((0, 0.1), (20, 0.2)), ended=False, warning=why, seed=3)
    found = compared([arm("grpo", *lines), arm("rloo", *rest, gone)])
    other = found["arms"][1]
    assert (other["finished"], other["failed"]) == (2, 1)
    assert other["runs"][2]["line"] == why and other["runs"][2]["status"] == "failed"
    assert found["budget"]["value"] == 300  # what failed cuts nothing short
    assert other["score"] == {"value": pytest.approx(0.7), "interval": None}
    of = {row["arm"]: row for row in found["improvement"]}
    assert of["grpo"]["value"] == pytest.approx((2 * 0.5 + 1) / 3)
    assert of["rloo"]["value"] == pytest.approx(1 / 3) and of["rloo"]["interval"] is not None
    json.dumps(found, allow_nan=False)


def test_a_run_that_was_killed_says_so(tmp_path: Path) -> None:
    run = read(write(tmp_path / "a", ended=False))
    assert run.problem == "no summary after step 2: killed, or still going on"


def test_an_arm_whose_runs_all_failed_has_no_figure(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a"), write(tmp_path / "b", ended=False)]
    found = compared([arm("a", runs[0]), arm("b", runs[1])])
    assert found["arms"][1]["score"] == {"value": None, "interval": None}
    assert found["arms"][1]["curve"] == []
    assert found["improvement"][0]["value"] == 1.0


def test_finished_runs_are_arms_by_their_recipes(tmp_path: Path) -> None:
    start = f"{tmp_path}/starts/start"
    runs = [
        write(
            tmp_path / f"{name}{seed}",
            algorithm=name,
            seed=seed,
            **{"model.path": f"{start}-{seed}/checkpoints/sft"},
        )
        for name in ("grpo", "rloo")
        for seed in (4, 9)
    ]
    found = grouped([read(run) for run in runs])
    assert [(one.name, [r.seed for r in one.runs]) for one in found] == [
        ("grpo", [4, 9]),
        ("rloo", [4, 9]),
    ]
    fast = write(tmp_path / "fast", **{"update.learning_rate": 1.0})
    slow = write(tmp_path / "slow", **{"update.learning_rate": 0.1})
    names = [one.name for one in grouped([read(fast), read(slow)])]
    assert names == ["grpo 1", "grpo 2"]
    with pytest.raises(RecipeError, match=r"b: the same recipe and seed \(1\) as .*a; a seed"):
        grouped([read(write(tmp_path / name)) for name in ("a", "b")])


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a"), write(tmp_path / "b", algorithm="rloo")
    with pytest.raises(RecipeError, match=r"^one arm alone \(a, 1 run\); name several"):
        compared([arm("a", one)])
    tasks = write(tmp_path / "c", **{"data.source": "task:chain_sum"})
    match = r'^data.source: "task:reverse" in a and "task:chain_sum" in c; arms of a'
    with pytest.raises(RecipeError, match=match):
        compared([arm("a", one), arm("c", tasks)])
    pairs = write(tmp_path / "d", metric="eval/pair_accuracy")
    match = r"no metric of evaluation is common to all arms \(a: accuracy; d: pair_accuracy\)"
    with pytest.raises(RecipeError, match=match):
        compared([arm("a", one), arm("d", pairs)])
    rewards = [
        write(tmp_path / f"r{weight}", metric="eval/reward", rewards=[{"weight": weight}])
        for weight in (1, 2)
    ]
    with pytest.raises(RecipeError, match=r"^reward: arms have different rewards"):
        compared([arm("a", rewards[0]), arm("b", rewards[1])])
    gone = write(tmp_path / "e", ended=False, warning="the run ended: NaN")
    found = compared([arm("x", gone), arm("y", gone)])  # there is nothing to judge, and it is said
    assert found["metric"] is found["budget"] is None and found["improvement"] == []
    assert {run["line"] for one in found["arms"] for run in one["runs"]} == {"the run ended: NaN"}
    alone = write(tmp_path / "f", ((0, 0.1),))
    with pytest.raises(RecipeError, match=r"f: eval/accuracy was not measured after training$"):
        compared([arm("a", other), arm("f", alone)])
    with pytest.raises(RunDirectoryError, match=r"has no stage 'r'; did you mean rl\?"):
        read(one, "r")
