"""What trackers are told of runs in control."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from polopt.coordination import track
from polopt.coordination.stage import Event

LINE = {
    "step": 1,
    "stage": "train",
    "steps": 1024.0,
    "time/step": 0.5,
    "return/mean": 23.5,
    "episode/length": 23.5,
    "policy/learning_rate": 1e-3,
    "policy/clip_fraction_low": 0.25,
    "policy/clip_fraction_high": 0.125,
    "critic/value_loss": 2.0,
}


def told(
    monkeypatch: pytest.MonkeyPatch, run: Path, name: str, **more: float
) -> list[tuple[int, str, float]]:
    """What the tracker hears of one line."""
    heard: list[tuple[int, str, float]] = []

    def log(numbers: Mapping[str, float], step: int) -> None:
        heard.extend((step, key, value) for key, value in numbers.items())

    monkeypatch.setitem(track._TRACKERS, name, lambda run, config, stack: log)
    with ExitStack() as stack:
        for observe in track.trackers([name], run, {}, stack):
            observe(Event("metrics", LINE | more))
            observe(Event("metrics", {"step": 1, "stage": "train", "eval/return_mean": 20.0}))
    return heard


def test_tensorboard_also_has_the_names_that_others_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = told(monkeypatch, tmp_path, "tensorboard")
    assert (1, "train/return/mean", 23.5) in heard
    assert (1, "train/eval/return_mean", 20.0) in heard
    familiar = {key: (step, value) for step, key, value in heard if not key.startswith("train/")}
    assert familiar == {
        "charts/episodic_return": (1024, 23.5),
        "charts/episodic_length": (1024, 23.5),
        "charts/learning_rate": (1024, 1e-3),
        "charts/SPS": (1024, 2048.0),
        "losses/clipfrac": (1024, 0.375),
        "losses/value_loss": (1024, 2.0),
    }


def test_a_run_that_goes_on_counts_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"step": 0}, {"step": 1, "steps": 1000.0}, {"step": 2, "steps": 500.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    heard = told(monkeypatch, tmp_path, "tensorboard")
    assert (2524, "charts/episodic_return", 23.5) in heard


def test_other_trackers_have_our_names_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert all(key.startswith("train/") for _, key, _ in told(monkeypatch, tmp_path, "wandb"))


def test_losses_of_a_replay_buffer_have_their_own_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned = {"critic/loss": 1.5, "critic/q_mean": -7.0, "policy/loss": 2.5, "policy/alpha": 0.25}
    found = {k: v for _, k, v in told(monkeypatch, tmp_path, "tensorboard", **learned)}
    assert found["losses/qf_loss"] == 1.5 and found["losses/qf1_values"] == -7.0
    assert found["losses/actor_loss"] == 2.5 and found["losses/alpha"] == 0.25
    plain = {k for _, k, _ in told(monkeypatch, tmp_path, "tensorboard", **{"policy/loss": 1.0})}
    assert "losses/actor_loss" not in plain
