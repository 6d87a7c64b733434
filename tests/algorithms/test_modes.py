"""One recipe in every mode: with S = 0 the same weights to the bit, beyond it a bounded lag."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.assembly.placement import followed
from polopt.coordination.stage import Event
from polopt.errors import EngineError, RecipeError
from polopt.roles import Actor
from runs import from_step, lines, metrics, unexplained, weights

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
    assert all(line["lag/bound"] == line["lag/max"] == 0 for line in metrics(run)[1:])
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
    found = metrics(train(tmp_path / "run", **flags, **{"run.steps": 6}))[1:]
    stale = [line for line in found if line["lag/max"] > 0]
    assert stale and all(line["lag/max"] <= line["lag/bound"] == 2 for line in found)
    assert {name for line in found for name in unexplained(line)} == set()
    for line in found:
        tokens = {lag: line[f"lag/{lag}/tokens"] for lag in range(9) if f"lag/{lag}/tokens" in line}
        assert sum(tokens.values()) == line["tokens"]
        mean = sum(lag * count for lag, count in tokens.items()) / line["tokens"]
        assert line["lag/mean"] == pytest.approx(mean) == line["lag/steps_mean"]
        of_lags = [line[f"lag/{lag}/kl"] * count for lag, count in tokens.items()]
        assert sum(of_lags) / line["tokens"] == pytest.approx(line["behaviour/kl"], rel=1e-4)
    assert all(line["behaviour/kl"] > 1e-5 for line in stale)
    clipped = sum(
        line["policy/clip_fraction_low"] + line["policy/clip_fraction_high"] for line in stale
    )
    assert (clipped > 0) == (correction is None)  # decoupled: pi_old is measured at the update


def test_weights_that_did_not_arrive_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(actor: Actor, device: torch.device) -> tuple[Actor, Callable[[], None]]:
        """A copy that never takes over the last tensor."""
        copy, follow = followed(actor, device)
        *_, last = copy.language_model.model.parameters()
        first = last.clone()

        def forget() -> None:
            follow()
            last.copy_(first)

        return copy, forget

    monkeypatch.setattr("polopt.assembly.inputs.followed", forgetful)
    line = "engine 1 does not hold the weights of version 1, sent twice: 1 of 20 tensors differ"
    with pytest.raises(EngineError, match=line):
        train(tmp_path / "run", **MODES["split"])
    warned = [one["message"] for one in lines(tmp_path / "run", "warnings")]
    assert any("sent again: 1 of 20 tensors differ, first model.norm" in one for one in warned)
    assert [one["step"] for one in metrics(tmp_path / "run")] == [0]


@pytest.mark.parametrize("engines", [1, 3])
def test_a_run_resumes_with_another_number_of_engines(engines: int, tmp_path: Path) -> None:
    """The same prompts are trained on, each once; with S = 0 the weights are the same, too."""
    for staleness in (0, 1):
        whole, run = tmp_path / f"whole-{staleness}", tmp_path / f"run-{staleness}"
        train(whole, **MODES["buffered"], **{"coordination.staleness": staleness})
        from_step(whole, run, 2)
        polopt.resume(run, flags={"coordination.engines": engines}, reward=variety)
        assert sorted(trained(run)) == sorted(trained(whole))
        if not staleness:
            assert weights(run) == weights(whole)


def trained(run: Path) -> list[str]:
    """The prompts that were trained on, by their keys, with repetitions."""
    return [key for line in lines(run, "prompts") for key in line.get("trained", ())]


def test_the_timeline_of_a_run(tmp_path: Path) -> None:
    """Everybody is in it, in every step; a resumed run has no line twice."""
    flags = {"coordination.mode": "buffered", "coordination.staleness": 1}
    run = train(tmp_path / "run", **flags, **{"coordination.engines": 2})
    found = lines(run, "timeline")
    kinds = {(one["who"], one["what"]) for one in found}
    engines = [("engine 1", what) for what in ("generate", "load", "prove")]
    assert {*engines, ("engine 2", "load"), ("rewards", "score")} <= kinds
    trainer = {what for who, what in kinds if who == "trainer"}
    assert trainer == {"wait", "update", "publish", "evaluate", "save"}
    assert {one["step"] for one in found} == {1, 2, 3, 4}
    assert all(one["start"] <= one["end"] for one in found)
    waits = [one for one in found if one["what"] == "wait"]
    assert [one["version"] for one in waits] == [0, 1, 2, 3]
    from_step(run, tmp_path / "resumed", 2)
    polopt.resume(tmp_path / "resumed", reward=variety)
    again = [
        one["step"] for one in lines(tmp_path / "resumed", "timeline") if one["what"] == "wait"
    ]
    assert again == [1, 2, 3, 4]


def test_in_turn_the_trainer_does_everything(in_turn: dict[str, Path]) -> None:
    found = lines(in_turn["whole"], "timeline")
    assert {one["who"] for one in found} == {"trainer"}
    assert {one["what"] for one in found} >= {"generate", "score", "update"}
    assert sum(one["tickets"] for one in found if one["what"] == "score") == 8


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
