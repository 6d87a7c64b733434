"""What every stage measures on what it holds out, before and after."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.assembly import StageInputs, build
from polopt.models import load, save
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from runs import BRIEF, lines

QUICK: dict[str, Any] = {
    **BRIEF,
    "evaluation": {"prompts": 4},
    "run": {"seed": 1, "threads": 1},
}


def summary(directory: Path, recipe: dict[str, Any], **options: Any) -> dict[str, Any]:
    flags = {"run.directory": str(directory / "run")}
    return dict(polopt.train(recipe, flags=flags, **options).summary)


def test_a_uniform_model_loses_the_logarithm_of_its_vocabulary(tmp_path: Path) -> None:
    """Whatever the demonstration, and at whatever temperature answers are sampled."""
    model = load("builtin:tiny")
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.zero_()
    save(model, tmp_path / "uniform")
    tables = {
        "algorithm": "sft",
        "model": {"path": str(tmp_path / "uniform")},
        "data": {"source": "task:chain_sum", "parameters": {"terms": 3}},
        "rollout": {"max_new_tokens": 4, "temperature": 0.5},
        "evaluation": {"prompts": 3},
    }
    one = resolve(load_recipe(tables)).stages[0]
    path = one.model.path
    inputs = StageInputs(one, path, path, torch.device("cpu"), lambda _: None, is_last=True)
    evaluate = build(inputs).evaluate
    assert evaluate is not None
    found = evaluate(False)
    assert found.metrics["nll"] == pytest.approx(math.log(len(model.tokenizer)), rel=1e-5)
    assert found.metrics["token_accuracy"] == 0.0  # of equal ones the first, which is padding
    assert "accuracy" in found.metrics  # by the verifier of the task


def test_every_stage_says_what_it_changed(tmp_path: Path) -> None:
    """The weights at the end of one stage are those at the beginning of the next."""
    found = summary(tmp_path, QUICK, reward=variety)
    warm, rl = found["stages"]
    for stage in (warm, rl):
        for when in ("before", "after"):
            assert stage[when]["intervals"].keys() <= stage[when]["metrics"].keys()
    assert warm["after"]["metrics"]["nll"] < warm["before"]["metrics"]["nll"]
    assert {"accuracy", "reward", "kl", "length"} <= rl["after"]["metrics"].keys()
    assert rl["before"]["metrics"]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert rl["after"]["metrics"]["kl"] != pytest.approx(0.0, abs=1e-5)
    same = ("accuracy", "reward", "length", "truncated")
    assert [warm["after"]["metrics"][name] for name in same] == [
        rl["before"]["metrics"][name] for name in same
    ]


def test_preferences_are_measured_before_and_after(tmp_path: Path) -> None:
    tables = {
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:taste"},
        "rollout": {"max_new_tokens": 4},
        "evaluation": {"prompts": 6},
        "run": {"threads": 1},
        "stage": {
            "liked": {"algorithm": "reward_model", "run": {"steps": 1}},
            "dpo": {"algorithm": "dpo", "run": {"steps": 1}},
        },
    }
    liked, dpo = summary(tmp_path, tables)["stages"]
    assert {"accuracy", "calibration_error", "reward_margin"} <= liked["after"]["intervals"].keys()
    assert {"pair_accuracy", "reward_margin", "reward"} <= dpo["after"]["intervals"].keys()
    assert "accuracy" not in dpo["after"]["metrics"]  # vowels are liked, not right


def test_a_length_is_no_accuracy_and_the_best_goes_by_it(tmp_path: Path) -> None:
    """Rewards beyond 1 that say nothing of right or wrong: the best is the highest mean reward."""

    def length(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    stage = QUICK["stage"]["rl"] | {"evaluation": {"every": 1}}
    data = [{"prompt": f"{i}?"} for i in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    recipe = QUICK | {"data": {"source": str(file)}, "stage": {"rl": stage}}
    found = summary(tmp_path, recipe, reward=length)
    assert not [name for name in found if "accuracy" in name]
    evaluated = [x for x in lines(tmp_path / "run", "metrics") if "eval/reward" in x]
    assert not any("accuracy" in name for line in evaluated for name in line)
    best = max((line for line in evaluated if line["step"]), key=lambda line: line["eval/reward"])
    assert found["best"] == {"reward": best["eval/reward"], "checkpoint": f"step_{best['step']}"}


def test_booleans_are_an_accuracy(tmp_path: Path) -> None:
    def long_enough(completions: list[str]) -> list[bool]:
        return [len(text) > 4 for text in completions]

    found = summary(tmp_path, QUICK | {"stage": {"rl": QUICK["stage"]["rl"]}}, reward=long_enough)
    assert 0.0 <= found["accuracy_after"] <= 1.0


def test_a_setting_that_needs_right_and_wrong_is_told_to_have_no_effect(tmp_path: Path) -> None:
    heard: list[str] = []
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(40)))
    rollout = {"prompts_per_step": 2, "group_size": 4, "resample_rounds": 1, "accuracy_min": 0.2}
    stage = QUICK["stage"]["rl"] | {"rollout": rollout, "run": {"steps": 1}}
    recipe = QUICK | {"data": {"source": str(file)}, "stage": {"rl": stage}}
    summary(
        tmp_path,
        recipe,
        reward=variety,
        observers=[lambda event: heard.append(event.values.get("message", ""))],
    )
    assert any("accuracy_min and accuracy_max have no effect" in text for text in heard)
