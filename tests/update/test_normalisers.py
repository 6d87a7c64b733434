"""Statistics of observations: of every step that was learned from, once, and of nothing else.

Those of rewards follow the returns of episodes, from one batch to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import polopt
from polopt.update.normalisers import RewardScale
from runs import metrics

STEPS, COUNT, LONG = 4, 3, 20  # batches, environments, steps in each


def trained(directory: Path, **flags: Any) -> list[dict[str, Any]]:
    """One optimiser step on each batch: the policy that learns is the one that sampled."""
    recipe = {
        "algorithm": "ppo",
        "model": {"path": "builtin:mlp"},
        "data": {"source": "control:pendulum", "parameters": {"max_episode_steps": 30}},
        "episodes": {"environments": COUNT, "steps": LONG, "normalise_observations": True},
        "network": {"hidden": [8]},
        "update": {"epochs": 1, "minibatches": 1, "learning_rate": 0.01},
        "evaluation": {"episodes": 2, "every": 1},
        "run": {"steps": STEPS, "threads": 1, "checkpoint_every": 1, "keep": STEPS},
    }
    polopt.train(recipe, flags={"run.directory": str(directory), **flags})
    return [line for line in metrics(directory) if "policy/loss" in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("normalised") / "run"
    return directory, trained(directory)


def statistics(directory: Path, step: int) -> dict[str, Any]:
    file = directory / "checkpoints" / f"step_{step}" / "policy.safetensors"
    return {k: v for k, v in load_file(file).items() if k.startswith("normaliser.")}


def test_every_step_of_training_is_counted_once_and_no_step_of_evaluation(
    run: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    directory, lines = run
    assert sum(line["steps"] for line in lines) == STEPS * COUNT * LONG
    for step in range(1, STEPS + 1):
        assert statistics(directory, step)["normaliser.count"] == step * COUNT * LONG
    trained(tmp_path / "run", **{"evaluation.every": 0, "evaluation.episodes": 1})
    for name, tensor in statistics(tmp_path / "run", STEPS).items():
        assert tensor.equal(statistics(directory, STEPS)[name]), name


def test_a_batch_is_learned_from_through_the_statistics_that_it_was_sampled_through(
    run: tuple[Path, list[dict[str, Any]]],
) -> None:
    """So every ratio is 1 and the policy is where it was, though the statistics move a lot."""
    directory, lines = run
    for line in lines:
        assert line["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
        assert abs(line["policy/approx_kl"]) < 1e-9
        assert line["policy/grad_norm"] > 0
    first, second = (statistics(directory, step)["normaliser.mean"] for step in (1, 2))
    assert (first - second).abs().max() > 0.01


@dataclass(frozen=True)
class OfOne:
    """Rewards of one environment in which no episode ends."""

    of: tuple[float, ...]
    anew: bool = False

    @property
    def rewards(self) -> Any:
        return np.array([self.of])

    @property
    def terminated(self) -> Any:
        return np.zeros((1, len(self.of)), dtype=np.bool_)

    @property
    def valid(self) -> Any:
        return ~self.terminated

    truncated = terminated


def begun() -> RewardScale:
    """It has seen the returns 1 and 2 of an episode that goes on."""
    scale = RewardScale(count=1, gamma=1.0)
    scale.scaled(OfOne((1.0, 1.0), anew=True))
    return scale


def test_the_returns_of_an_episode_go_on_in_the_next_batch() -> None:
    """1, 2 and 2 + 4 = 6 have a variance of 14/3."""
    assert begun().scaled(OfOne((4.0,)))[0, 0] == pytest.approx(4 / (14 / 3) ** 0.5)


def test_the_returns_of_an_abandoned_episode_do_not() -> None:
    """1, 2 and 3 have a variance of 2/3; on top of the abandoned 2 it were 1, 2 and 5."""
    scaled = begun().scaled(OfOne((3.0,), anew=True))
    assert scaled[0, 0] == pytest.approx(3 / (2 / 3) ** 0.5)


def test_a_resumed_scale_knows_the_returns_that_go_on() -> None:
    again = RewardScale(count=1, gamma=1.0)
    again.load_state_dict(begun().state_dict())
    assert again.scaled(OfOne((4.0,)))[0, 0] == pytest.approx(4 / (14 / 3) ** 0.5)
