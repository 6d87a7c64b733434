"""What rows in control must reach: ``make test-control``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import polopt
from runs import lines

ROOT = Path(__file__).parents[2]

SEEDS = [1, 2, 3, 4, 5]

pytestmark = pytest.mark.control


@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_balances_the_pole_within_fifty_thousand_steps(seed: int, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "cartpole_ppo.toml"
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run"), "run.steps": 48}
    run = polopt.train(recipe, flags={**flags, "evaluation.every": 0})
    assert run.summary["return_mean_after"] >= 475


@pytest.mark.parametrize("name", ["sac", "ddpg"])
def test_the_pendulum_stands_within_ten_thousand_steps(name: str, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / f"pendulum_{name}.toml"
    run = polopt.train(recipe, flags={"run.directory": str(tmp_path / "run")})
    assert run.summary["return_mean_after"] > -200
    told = [line for line in lines(tmp_path / "run", "metrics") if "steps" in line]
    assert sum(line["steps"] for line in told) <= 10_000
    if name == "sac":
        alphas = [line["policy/alpha"] for line in told]
        assert 0 < alphas[-1] < alphas[0]


def trained(directory: Path, seed: int, name: str, source: str, **flags: Any) -> dict[str, Any]:
    """The row's own numbers, but for the flags; what the run came to."""
    recipe = {"algorithm": name, "model": {"path": "builtin:mlp"}, "data": {"source": source}}
    fixed = {"run.seed": seed, "run.threads": 1, "run.directory": str(directory / "run")}
    named = {key.replace("__", "."): value for key, value in flags.items()}
    run = polopt.train(recipe, flags={**fixed, **named})
    found = lines(run.directory, "metrics")
    return {**run.summary, "taken": sum(line.get("steps", 0) for line in found), "lines": found}


@pytest.mark.parametrize("seed", SEEDS)
def test_trpo_balances_the_pole_inside_its_region(seed: int, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "cartpole_trpo.toml"
    run = polopt.train(recipe, flags={"run.seed": seed, "run.directory": str(tmp_path / "run")})
    assert run.summary["return_mean_after"] >= 475  # after 51,200 steps at most
    kl = [line["policy/kl"] for line in lines(run.directory, "metrics") if "policy/kl" in line]
    assert max(kl) <= 0.01


@pytest.mark.parametrize(
    ("name", "every", "most", "of_five"),
    [("reinforce", 2, 100_000, 5), ("a2c", 20, 250_000, 4)],
)
def test_the_older_rows_balance_it_too(
    name: str, every: int, most: int, of_five: int, tmp_path: Path
) -> None:
    recipe = {"algorithm": name, "model": {"path": "builtin:mlp"}}
    recipe |= {"data": {"source": "control:cartpole"}, "run": {"threads": 1, "steps": 488}}
    recipe |= {"until": {"metric": "return_mean", "at_least": 475}}
    reached = 0
    for seed in SEEDS:
        directory = tmp_path / str(seed)
        flags = {"run.seed": seed, "run.directory": str(directory)}
        polopt.train(recipe, flags={**flags, "evaluation.every": every, "evaluation.episodes": 20})
        found = lines(directory, "metrics")
        best = max(line.get("eval/return_mean", 0) for line in found)
        reached += best >= 475 and sum(line.get("steps", 0) for line in found) <= most
    assert reached >= of_five


@pytest.mark.parametrize("name", ["td_actor_critic", "q_actor_critic"])
def test_one_step_actor_critics_triple_their_return(name: str, tmp_path: Path) -> None:
    """Within 200,000 steps, four of five seeds: the first tenth of the run and the last one."""
    tripled = 0
    for seed in SEEDS:
        flags = {"run__steps": 390, "evaluation__episodes": 5}
        found = trained(tmp_path / str(seed), seed, name, "control:cartpole", **flags)["lines"]
        means = [line["return/mean"] for line in found if "return/mean" in line]
        tenth = len(means) // 10
        tripled += sum(means[-tenth:]) >= 3 * sum(means[:tenth])
    assert tripled >= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_swings_the_pendulum_up(seed: int, tmp_path: Path) -> None:
    """With what it sees and earns normalised, and a horizon of twenty steps: a second."""
    normalised = {"episodes__normalise_observations": True, "episodes__normalise_rewards": True}
    steps = {"update__decay": "linear", "update__max_grad_norm": 0.5, "run__steps": 73}
    horizon = {"credit__gamma": 0.95, "credit__lambda": 0.9, "evaluation__episodes": 100}
    flags = {**horizon, **steps, **normalised}
    found = trained(tmp_path, seed, "ppo", "control:pendulum", **flags)
    assert found["return_mean_after"] > -250
    assert found["taken"] <= 150_000


@pytest.mark.parametrize("seed", SEEDS)
def test_trpo_swings_the_pendulum_up(seed: int, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "pendulum_trpo.toml"
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run"), "evaluation.every": 0}
    run = polopt.train(recipe, flags=flags)
    assert run.summary["return_mean_after"] > -250
    told = lines(run.directory, "metrics")
    assert sum(line.get("steps", 0) for line in told) <= 150_000
