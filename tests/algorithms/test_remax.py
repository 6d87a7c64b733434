"""ReMax as a row: what it compares, and what a run makes of the greedy responses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import torch

import polopt
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.types import Experience

BASE: dict[str, Any] = {
    "algorithm": "remax",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
}
PEERS = Path(__file__).parents[2] / "docs" / "peers.toml"


def stage(flags: dict[str, Any]) -> StageRecipe:
    return resolve(load(BASE, flags)).stages[0]


def experience() -> Experience:
    """Rewards 1, 0 and 1 of prompts whose greedy responses earn ½, ½ and nothing at all.

    Each token of the first costs a KL of 1.
    """
    old = torch.full((3, 2), -1.0)
    return Experience(
        mask=torch.tensor([[True, True], [True, False], [True, True]]),
        group=torch.arange(3),
        rewards=torch.tensor([1.0, 0.0, 1.0]),
        greedy_rewards=torch.tensor([0.5, 0.5, torch.nan]),
        logp_old=old,
        logp_ref=old - torch.tensor([[1.0], [0.0], [0.0]]),
    )


def test_the_sampled_response_alone_pays_for_its_distance() -> None:
    """1 - 2·0.1 - ½ on both tokens of the first, -½ on the second; the third leaves."""
    advantages = assign(experience(), credit_of(stage({"kl.coefficient": 0.1})))
    wanted = torch.tensor([[0.3, 0.3], [-0.5, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(advantages.advantages, wanted)
    assert advantages.valid.tolist() == [True, True, False]


def test_that_of_verl_pays_for_what_comes_after() -> None:
    """Its last token does not pay for the first: 1 - 0.1 - ½."""
    presets = tomllib.loads(PEERS.read_text(encoding="utf-8"))["preset"]
    (verl,) = (p["recipe"] for p in presets if (p["method"], p["peer"]) == ("remax", "verl"))
    advantages = assign(experience(), credit_of(stage({**verl, "kl.coefficient": 0.1})))
    torch.testing.assert_close(advantages.advantages[0], torch.tensor([0.3, 0.4]))


def test_a_run_scores_them_and_trains_on_none(tmp_path: Path) -> None:
    seen = list[int]()

    def score(completions: list[str]) -> list[float]:
        seen.append(len(completions))
        return [float(len(set(text))) for text in completions]

    settings = {
        "rollout": {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 4},
        "update": {"learning_rate": 1e-3},
        "evaluation": {"prompts": 5},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")},
    }
    polopt.train({**BASE, **settings}, reward=score)
    assert seen.count(2 + 1) == 3  # a call for each prompt, the greedy one among the others
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    trained = [s for s in samples if s["kind"] == "train"]
    assert len(trained) == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (step,) = (line for line in lines if "reward/greedy" in line)
    assert step["tokens"] == sum(s["tokens"] for s in trained)
    assert step["time/greedy"] > 0
