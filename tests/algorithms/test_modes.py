"""One recipe in every mode: with S = 0 the same weights to the bit, beyond it a bounded lag."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.coordination.stage import Event
from polopt.errors import RecipeError
from runs import metrics, unexplained, variety, weights

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
    "kl": {"coefficient": 0.0},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 2, "every": 2},
    "run": {"steps": 4, "threads": 1, "seed": 1, "checkpoint_every": 2},
}
MODES: dict[str, dict[str, Any]] = {
    "split": {"coordination.mode": "split"},
    "buffered": {"coordination.mode": "buffered", "coordination.engines": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "adapter": {"model.lora": 4},
    "filtered": {"rollout.resample_rounds": 2},
    "half": {"model.dtype": "bfloat16"},
}


def train(directory: Path, **flags: Any) -> Path:
    run = polopt.train(BASE, flags={"run.directory": str(directory), **flags}, reward=variety)
    return run.directory


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("in_turn")
    return {kind: train(made / kind, **flags) for kind, flags in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_without_staleness_every_mode_gives_the_same_bits(
    mode: str, kind: str, in_turn: dict[str, Path], tmp_path: Path
) -> None:
    run = train(tmp_path / "run", **MODES[mode], **KINDS[kind])
    assert weights(run) == weights(in_turn[kind])
    assert unexplained(metrics(run)[-1]) == []
    evaluated = [
        {name: value for name, value in line.items() if name.startswith(("eval/", "reward/"))}
        for directory in (run, in_turn[kind])
        for line in metrics(directory)
    ]
    assert evaluated[: len(evaluated) // 2] == evaluated[len(evaluated) // 2 :]


@pytest.mark.parametrize("correction", [None, "token_tis"])
def test_the_clip_engages_on_stale_responses(correction: str | None, tmp_path: Path) -> None:
    """At a lag of one update and more the ratio is not 1, and is measured before it is moved."""
    flags: dict[str, Any] = {"coordination.mode": "buffered", "coordination.staleness": 2}
    flags |= {"update.learning_rate": 2e-2, "objective.clip_low": 0.01, "objective.clip_high": 0.01}
    if correction is not None:
        flags |= {"objective.correction": correction, "objective.correction_high": 2.0}
    lines = metrics(train(tmp_path / "run", **flags, **{"run.steps": 6}))[1:]
    stale = [line for line in lines if line["lag/max"] > 0]
    assert stale and all(line["lag/max"] <= 2 for line in lines)
    assert all(line["behaviour/kl"] > 1e-5 for line in stale)
    clipped = sum(
        line["policy/clip_fraction_low"] + line["policy/clip_fraction_high"] for line in stale
    )
    assert (clipped > 0) == (correction is None)  # decoupled: pi_old is measured at the update


def test_a_stage_resumes_where_it_was(tmp_path: Path) -> None:
    flags = {"coordination.mode": "buffered", "coordination.staleness": 1}
    run = train(tmp_path / "run", **flags)
    polopt.resume(run, flags={"run.steps": 7}, reward=variety)
    assert [line["step"] for line in metrics(run)][-1] == 7


def test_what_threads_tell_is_handed_on_by_one(tmp_path: Path) -> None:
    heard = dict[str, int]()

    def observe(event: Event) -> None:
        heard[str(event.values.get("text"))] = threading.get_ident()

    flags = {"run.directory": str(tmp_path / "run"), "coordination.mode": "buffered"}
    flags |= {"coordination.staleness": 1}
    polopt.train(BASE, flags=flags, reward=variety, observers=[observe])
    assert any(
        text.startswith("rewards of the first batch") for text in heard
    )  # told by who scored it
    assert {*heard.values()} == {threading.get_ident()}


def test_a_reward_that_runs_in_the_trainer_needs_fresh_responses(tmp_path: Path) -> None:
    flags = {"run.directory": str(tmp_path / "run"), "coordination.mode": "buffered"}
    with pytest.raises(RecipeError, match="1 is not allowed with the reward '<lambda>'"):
        polopt.train(
            BASE,
            flags=flags | {"coordination.staleness": 1},
            reward=lambda completions: [float(len(one)) for one in completions],
        )


def test_more_engines_than_devices_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from polopt.assembly.placement import engine_devices

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert engine_devices(torch.device("cuda", 0), 1) == [torch.device("cuda", 1)]
    assert engine_devices(torch.device("cpu"), 3) == [torch.device("cpu")] * 3
    with pytest.raises(RecipeError, match=r"coordination.engines: 2 is not allowed with 2 GPUs"):
        engine_devices(torch.device("cuda", 0), 2)
