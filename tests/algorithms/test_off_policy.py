"""SAC and DDPG: single steps by hand, turns, resuming, and optima that are known."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

import polopt
from polopt.assembly.replay import NO_ADVANTAGES, _experience
from polopt.coordination.stepwise import ReplaySchedule, StepwiseSource
from polopt.envs.control import registry
from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.interface import Box
from polopt.envs.control.pendulum import Pendulum
from polopt.errors import NonFiniteError, RecipeError
from polopt.math.noise import gaussian_noise, ou_noise
from polopt.math.pathwise import temperature_loss_exp, temperature_loss_log
from polopt.models.network import ActionValueNetworks, PolicyNetwork, Specification
from polopt.objective.pathwise import (
    Deterministic,
    Soft,
    Temperature,
    deterministic_policy_loss,
    deterministic_q_loss,
    soft_policy_loss,
    soft_q_loss,
)
from polopt.recipe import Update
from polopt.roles.control import ActionCritics, StepActor
from polopt.roles.policies import squashed
from polopt.rollout.episodes import Playing
from polopt.rollout.exploration import Noisy
from polopt.rollout.replay import Replay
from polopt.types import Transitions
from polopt.update.single import SingleStep, Weights
from runs import Crash, metrics, weights


def specification(kind: Any) -> Specification:
    return Specification(1, 1, kind, (), "tanh", 0.0, False, (-2.0,), (2.0,))


def actor(kind: Any, *rows: tuple[float, float]) -> StepActor:
    """A linear policy; each row of its output is (weight, bias)."""
    network = PolicyNetwork(specification(kind), torch.Generator())
    with torch.no_grad():
        network.body[0].weight.copy_(torch.tensor([[w] for w, _ in rows]))
        network.body[0].bias.copy_(torch.tensor([b for _, b in rows]))
    return StepActor(network)


def critics(*of: tuple[float, float, float]) -> ActionCritics:
    """Q(s, a) = w s + v a + b for each (w, v, b)."""
    networks = ActionValueNetworks(specification("squashed"), len(of), torch.Generator())
    with torch.no_grad():
        networks.weights[0].copy_(torch.tensor([[[w], [v]] for w, v, _ in of]))
        networks.biases[0].copy_(torch.tensor([[[b]] for _, _, b in of]))
    return ActionCritics(networks)


def steps(*rows: tuple[float, float, float, float, bool]) -> Transitions:
    """(s, a, s′, r, terminated)"""
    return Transitions(torch.tensor([[float(x) for x in row] for row in rows]), 1, 1)


def number(value: Tensor) -> float:
    return float(value.detach())


def gradient(value: Tensor, *of: Parameter) -> list[list[float]]:
    return [g.flatten().tolist() for g in torch.autograd.grad(value, of)]


NOBODY = torch.Generator()


# DDPG by hand: Q = s + 2a, Q′ = 3s + 2a + 1, μ = tanh(0 s), μ′ = tanh(0 s + ½ log 3) = ½


def ddpg() -> Deterministic:
    return Deterministic(
        actor("deterministic", (0.0, 0.0)),
        critics((1.0, 2.0, 0.0)),
        actor("deterministic", (0.0, 0.5 * math.log(3.0))),
        critics((3.0, 2.0, 1.0)),
        0.5,
    )


def test_the_critic_of_ddpg_by_hand() -> None:
    """y = 2 + ½ (3·(-1) + 2·½ + 1) = 1½, Q = 2, loss ¼; where nothing follows y = 2, loss 0."""
    of = ddpg()
    loss, told = deterministic_q_loss(steps((1, 0.5, -1, 2, False)), NOBODY, of=of)
    assert number(loss) == pytest.approx(0.25)
    assert float(told["q_mean"]) == 2.0 and float(told["target_mean"]) == 1.5
    networks = of.critics.networks
    found = gradient(loss, networks.weights[0], networks.biases[0])
    assert found == [pytest.approx([1.0, 0.5]), pytest.approx([1.0])]  # 2 (Q - y) (s, a, 1)
    over, _ = deterministic_q_loss(steps((1, 0.5, -1, 2, True)), NOBODY, of=of)
    assert number(over) == 0.0
    both, _ = deterministic_q_loss(
        steps((1, 0.5, -1, 2, False), (1, 0.5, -1, 2, True)), NOBODY, of=of
    )
    assert number(both) == pytest.approx(0.125)


def test_the_policy_of_ddpg_climbs_the_critic_by_hand() -> None:
    """-Q(1, tanh 0) = -1, and d/dw = -(∂Q/∂a) (1 - tanh²) s = -2."""
    of = ddpg()
    loss, _ = deterministic_policy_loss(steps((1, 0.5, -1, 2, False)), NOBODY, of=of)
    assert number(loss) == -1.0
    linear: Any = of.actor.network.body[0]
    assert gradient(loss, linear.weight, linear.bias) == [[-2.0], [-2.0]]


def test_a_step_of_ddpg_moves_the_policy_and_leaves_the_critic() -> None:
    """The first step of Adam is the rate long, against the gradient."""
    of = ddpg()
    before = copy.deepcopy(dict(of.critics.parameters))
    settings = Update(learning_rate=0.1)
    learner = SingleStep(
        lambda *given: deterministic_policy_loss(*given, of=of),
        [Weights(of.actor.parameters, settings)],
        steps=1,
        seed=0,
        name="policy",
    )
    told = learner.update(_experience(steps((1, 0.5, -1, 2, False))), NO_ADVANTAGES, 0)
    linear: Any = of.actor.network.body[0]
    assert linear.weight.item() == pytest.approx(0.1) and linear.bias.item() == pytest.approx(0.1)
    assert float(told["policy/grad_norm"]) == pytest.approx(8**0.5)
    for name, weight in of.critics.parameters.items():
        assert torch.equal(weight, before[name]) and weight.grad is None


def test_no_step_is_taken_on_a_gradient_that_is_not_finite() -> None:
    of = ddpg()
    start = copy.deepcopy(dict(of.critics.parameters))
    learner = SingleStep(
        lambda *given: deterministic_q_loss(*given, of=of),
        [Weights(of.critics.parameters, Update(learning_rate=0.1))],
        steps=9,
        seed=0,
        name="critic",
    )
    with pytest.raises(NonFiniteError, match="critic: the gradient norm in step 5 is nan"):
        learner.update(_experience(steps((1, 0.5, -1, math.nan, False))), NO_ADVANTAGES, 4)
    assert all(torch.equal(w, start[name]) for name, w in of.critics.parameters.items())


# SAC by hand: σ = 1, μ = 0, so that a = tanh n and log π = -n²/2 - ½ log 2π - log(1 - a²)


def drawn(seed: int) -> tuple[float, float]:
    n = float(torch.randn(1, 1, generator=torch.Generator().manual_seed(seed)))
    a = math.tanh(n)
    return a, -n * n / 2 - 0.5 * math.log(2 * math.pi) - math.log(1 - a * a)


def sac(loss: Any = temperature_loss_log) -> Soft:
    return Soft(
        actor("squashed", (0.0, 0.0), (0.0, 0.0)),
        critics((1.0, 2.0, 0.0), (0.0, 1.0, 3.0)),
        critics((0.0, 1.0, 0.0), (0.0, 2.0, 5.0)),
        Temperature(Parameter(torch.tensor(0.2).log()), loss, -1.0),
        0.5,
    )


def test_the_critics_of_sac_by_hand() -> None:
    """The target is the smaller one, Q₁′ = a′, less α log π(a′)."""
    generator = torch.Generator().manual_seed(4)
    a, logp = drawn(4)
    y = 2 + 0.5 * (a - 0.2 * logp)
    loss, told = soft_q_loss(steps((1, 0.5, -1, 2, False)), generator, of=sac())
    assert float(told["target_mean"]) == pytest.approx(y)
    assert number(loss) == pytest.approx((2 - y) ** 2 + (3.5 - y) ** 2, rel=1e-5)
    over, _ = soft_q_loss(steps((1, 0.5, -1, 2, True)), generator, of=sac())
    assert number(over) == pytest.approx(0.0 + 1.5**2)


@pytest.mark.parametrize(
    ("form", "slope"), [(temperature_loss_log, 1.0), (temperature_loss_exp, 0.2)]
)
def test_policy_and_temperature_of_sac_by_hand(form: Any, slope: float) -> None:
    """At s = 1: min(1 + 2a, a + 3) = 1 + 2a. d/dμ = α ∂ log π/∂μ - 2 (1 - a²), where log π of a
    fixed draw n moves by the squash alone: ∂/∂μ [-log(1 - tanh²(μ + n))] = 2a."""
    of = sac(form)
    a, logp = drawn(6)
    loss, told = soft_policy_loss(
        steps((1, 0.5, -1, 2, False)), torch.Generator().manual_seed(6), of=of
    )
    assert float(told["policy_loss"]) == pytest.approx(0.2 * logp - (1 + 2 * a), rel=1e-5)
    assert float(told["entropy"]) == pytest.approx(-logp, rel=1e-5)
    assert float(told["alpha"]) == pytest.approx(0.2)
    linear: Any = of.actor.network.body[0]
    bias, of_alpha = gradient(loss, linear.bias, of.temperature.log_alpha)
    assert bias[0] == pytest.approx(0.2 * 2 * a - 2 * (1 - a * a), rel=1e-4)
    assert of_alpha == pytest.approx([-slope * (logp - 1.0)], rel=1e-5)


# Policies in the units of the environment


def test_actions_between_minus_one_and_one_fill_the_range_of_the_environment() -> None:
    low, high = (-2.0, 0.0), (2.0, 10.0)
    given = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    assert squashed.moved(given, low, high).tolist() == [[-2, 0], [0, 5], [2, 10]]


def test_a_squashed_policy_integrates_to_one_and_is_most_likely_near_its_mode() -> None:
    parameters = torch.tensor([[0.4, -0.7]]).expand(200_000, 2)
    actions, logp = squashed.draw(parameters, torch.Generator().manual_seed(0))
    assert actions.abs().max() < 1
    # E[1/π] over the support is its length, 2
    assert float((-logp).exp().mean()) == pytest.approx(2.0, rel=0.05)
    assert float(actions.median()) == pytest.approx(math.tanh(0.4), abs=0.01)
    assert squashed.mode(parameters[:1]).item() == pytest.approx(math.tanh(0.4))


# Noise


def test_noise_of_exploration_remembers_within_an_episode_and_forgets_after_it() -> None:
    noisy = Noisy(
        actor("deterministic", (0.0, 0.0)), lambda x, n: ou_noise(x, n, 0.5, 1.0 / 1024), 2, 1
    )
    twin = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 1, generator=twin) / 1024 for _ in range(3)]
    generator, seen = torch.Generator().manual_seed(0), np.zeros((2, 1), dtype=np.float32)
    first = noisy.act(seen, generator)
    assert first.tolist() == draws[0].tolist()
    noisy.forget(np.array([True, False]))
    second = noisy.act(seen, generator)
    expected = torch.stack([draws[1][0], 0.5 * draws[0][1] + draws[1][1]])
    assert second == pytest.approx(expected.numpy())
    other = Noisy(actor("deterministic", (0.0, 0.0)), noisy._noise, 2, 1)
    other.load_state_dict(json.loads(json.dumps(noisy.state_dict())))
    after = torch.Generator()
    after.set_state(generator.get_state())
    assert np.array_equal(noisy.act(seen, generator), other.act(seen, after))


def test_noise_is_clipped_to_the_range() -> None:
    wild = Noisy(actor("deterministic", (0.0, 0.0)), lambda x, n: gaussian_noise(x, n, 9.0), 50, 1)
    made = wild.act(np.zeros((50, 1), dtype=np.float32), torch.Generator().manual_seed(0))
    assert set(np.abs(made[:, 0]).round(6)) >= {1.0} and np.abs(made).max() == 1.0


def test_noise_begins_at_0_where_a_step_only_begins_an_episode() -> None:
    """So do vectors of gymnasium. The noise grows by 1/64 a step: it counts those of an episode."""
    pytest.importorskip("gymnasium")
    made = registry.make("control:MountainCarContinuous-v0", 1, {"max_episode_steps": 3})
    who, noisy = counting(made)
    replay = Replay(100, 2, 1)
    turns = ReplaySchedule(batch_size=1, start_steps=0, updates_per_step=1.0)
    source = StepwiseSource(Playing(made), who, noisy, replay, turns, seed=1)
    for _ in range(7):
        source.next_batch()
    taken = replay.draw(500, np.random.default_rng(0)).actions[:, 0]
    assert sorted(set((taken * 64).round().int().tolist())) == [1, 2, 3]


def counting(environments: Any) -> tuple[StepActor, Noisy]:
    size, kind = environments.observation_size, "deterministic"
    made_of = Specification(size, 1, kind, (4,), "relu", 0.0, False, (-1.0,), (1.0,))
    network = PolicyNetwork(made_of, torch.Generator().manual_seed(0))
    for weight in network.parameters():
        weight.data.zero_()
    who = StepActor(network)
    return who, Noisy(who, lambda x, n: x + 1 / 64, environments.count, 1)


# Turns


@pytest.mark.parametrize(
    ("count", "start", "ratio", "taken"),
    [
        (1, 10, 1.0, [11, 12, 13, 14]),
        (1, 0, 0.5, [2, 4, 6, 8]),
        (1, 10, 2.0, [11, 11, 12, 12]),
        (4, 10, 0.5, [12, 16, 16, 20]),  # 12 steps are the first from which 10 are over by 2
    ],
)
def test_an_optimiser_step_is_due_once_enough_steps_were_taken(
    count: int, start: int, ratio: float, taken: list[int]
) -> None:
    made_of = Specification(3, 1, "deterministic", (4,), "relu", 0.0, False, (-2.0,), (2.0,))
    who = StepActor(PolicyNetwork(made_of, torch.Generator().manual_seed(0)))
    replay = Replay(1000, 3, 1)
    source = StepwiseSource(
        Playing(ArrayEnvironments(Pendulum(), count)),
        who,
        Noisy(who, lambda x, n: x, count, 1),
        replay,
        ReplaySchedule(batch_size=2, start_steps=start, updates_per_step=ratio),
        seed=1,
    )
    filled: list[int] = []
    for _ in taken:
        source.next_batch()
        filled.append(replay.filled)
    assert filled == taken
    assert source.stats()["steps"] == taken[-1]
    assert source.stats()["steps"] == 0  # told once


# Runs


def train(directory: Path, name: str, source: str = "control:pendulum", **tables: Any) -> Any:
    recipe = {
        "algorithm": name,
        "model": {"path": "builtin:mlp"},
        "data": {"source": source},
        "network": {"hidden": [16, 16]},
        "episodes": {"environments": 2, "steps": 15},
        "replay": {"start_steps": 20, "size": 70},
        "update": {"batch_size": 8},
        "evaluation": {"episodes": 2},
        "run": {"steps": 4, "threads": 1, "checkpoint_every": 2, "directory": str(directory)},
    }
    return polopt.train(recipe, **tables)


@pytest.mark.parametrize(
    ("name", "source", "flags"),
    [
        ("sac", "control:pendulum", {}),
        ("sac", "control:pendulum", {"temperature.loss": "none", "temperature.initial": 0.1}),
        ("ddpg", "control:pendulum", {}),
        ("ddpg", "control:pendulum", {"exploration.noise": "none", "update.decay": "linear"}),
        ("sac", "control:MountainCarContinuous-v0", {"data.parameters.max_episode_steps": 50}),
        ("ddpg", "control:MountainCarContinuous-v0", {"data.parameters.max_episode_steps": 50}),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(
    name: str, source: str, flags: dict[str, Any], tmp_path: Path
) -> None:
    """The ring has gone round by then, and the last checkpoint lies a step back."""
    if source.endswith("-v0"):
        pytest.importorskip("gymnasium")

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    train(tmp_path / "whole", name, source, flags=flags)
    with pytest.raises(Crash):
        train(tmp_path / "broken", name, source, flags=flags, observers=[crash])
    polopt.resume(tmp_path / "broken")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")
    kept = weights(tmp_path / "whole")
    assert {"replay/replay.safetensors", "target/weights.safetensors"} <= kept.keys()


@pytest.mark.parametrize("name", ["sac", "ddpg"])
def test_a_seed_is_a_curve(name: str, tmp_path: Path) -> None:
    for run, seed in (("one", 1), ("two", 1), ("other", 2)):
        train(tmp_path / run, name, flags={"run.seed": seed, "run.steps": 2})
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert metrics(tmp_path / "one") != metrics(tmp_path / "other")


@pytest.mark.parametrize("name", ["sac", "ddpg"])
def test_a_finished_run_is_evaluated_again(name: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", name)
    again = polopt.evaluate(run.directory)[0].metrics
    assert again["return_mean"] == run.summary["return_mean_after"]


def test_a_line_of_metrics_is_of_many_steps(tmp_path: Path) -> None:
    train(tmp_path / "run", "sac")
    told = [line for line in metrics(tmp_path / "run") if "steps" in line]
    assert [line["steps"] for line in told] == [50, 30, 30, 30]  # the random ones in the first
    assert [line["replay/size"] for line in told] == [50, 70, 70, 70]


def test_actions_to_choose_from_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        train(tmp_path / "run", "ddpg", "control:cartpole")
    assert str(error.value) == (
        "data.source: control:cartpole has 2 actions to choose from; ddpg needs continuous ones "
        "(ppo is for both)"
    )


def test_a_stage_does_not_start_from_a_policy_of_another_kind(tmp_path: Path) -> None:
    control = {"model": {"path": "builtin:mlp"}, "data": {"source": "control:pendulum"}}
    short = {"episodes": {"environments": 2, "steps": 16}, "evaluation": {"episodes": 2}}
    stages = {"first": {"algorithm": "ppo"}, "second": {"algorithm": "sac"}}
    run = {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")}
    with pytest.raises(RecipeError) as error:
        polopt.train({**control, **short, "stage": stages, "run": run})
    assert str(error.value) == (
        'stage.second.from: "first" is not allowed; it ends in a policy of ppo, whose distribution '
        "sac cannot train"
    )


# Optima that are known


@dataclass(frozen=True)
class Bandit:
    """One state, one step: r = -((a - 1.6) / 2)² for actions between -1 and 3."""

    observation_size: int = 1
    action: Box = field(default_factory=lambda: Box(np.float32([-1.0]), np.float32([3.0])))
    max_episode_steps: int = 1

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        return np.zeros(1)

    def observe(self, states: Any) -> Any:
        return states.astype(np.float32)

    def advance(self, states: Any, actions: Any) -> Any:
        return states, -(((actions[:, 0] - 1.6) / 2) ** 2), np.ones(len(states), dtype=np.bool_)

    def facts(self, states: Any) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Endless(Bandit):
    """A reward of 1 in every step, for ever; or once, where the episode is over."""

    over: bool = False
    max_episode_steps: int = 3

    def advance(self, states: Any, actions: Any) -> Any:
        return states, np.ones(len(states)), np.full(len(states), self.over)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {**registry.BUILTIN, "bandit": Bandit, "endless": Endless}
    monkeypatch.setattr(registry, "BUILTIN", made)


FAST: dict[str, Any] = {
    "model": {"path": "builtin:mlp"},
    "network": {"hidden": [32, 32]},
    "update": {"learning_rate": 3e-3},
    "critic": {"learning_rate": 3e-3},
    "evaluation": {"episodes": 2},
}
STORED: dict[str, Any] = {
    "replay": {"start_steps": 200},
    "episodes": {"environments": 4, "steps": 50},
    "critic": {"learning_rate": 5e-3, "tau": 0.05},
    "update": {"learning_rate": 1e-2, "batch_size": 64, "decay": "cosine"},
    "run": {"steps": 6},
}


def learned(tmp_path: Path, name: str, source: str, **tables: Any) -> tuple[Any, dict[str, Any]]:
    run = {"threads": 1, "directory": str(tmp_path / "run"), **tables.pop("run")}
    recipe = {**FAST, "data": {"source": source}, **tables, "algorithm": name, "run": run}
    directory = polopt.train(recipe).directory
    return polopt.load(directory), metrics(Path(directory))[-1]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", ["ddpg", "ppo"])
def test_the_best_action_of_a_bandit_is_found(name: str, tmp_path: Path) -> None:
    few = {"learning_rate": 1e-2, "epochs": 4, "minibatches": 4, "decay": "linear"}
    ppo = {"episodes": {"environments": 16, "steps": 16}, "update": few, "run": {"steps": 25}}
    policy, _ = learned(tmp_path, name, "control:bandit", **(ppo if name == "ppo" else STORED))
    assert policy.act(np.zeros(1))[0] == pytest.approx(1.6, abs=0.02 * 2)  # of half the range


@pytest.mark.usefixtures("known")
def test_sac_finds_the_best_distribution_of_a_bandit(tmp_path: Path) -> None:
    """π ∝ exp(Q/α), Q = -(ã - 0.3)² of ã in [-1, 1]: a Gaussian of variance α/2."""
    tables = {**STORED, "temperature": {"loss": "none", "initial": 0.02}}
    policy, line = learned(tmp_path, "sac", "control:bandit", **tables)
    assert policy.act(np.zeros(1))[0] == pytest.approx(1.6, abs=0.02 * 2)
    expected = 0.5 * math.log(2 * math.pi * math.e * 0.02 / 2)
    assert line["policy/entropy"] == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_the_temperature_of_sac_gives_the_entropy_that_is_asked_for(tmp_path: Path) -> None:
    own = {"target_entropy": -0.5, "learning_rate": 1e-2}
    _, line = learned(tmp_path, "sac", "control:bandit", **{**STORED, "temperature": own})
    assert line["policy/entropy"] == pytest.approx(-0.5, abs=0.1)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("over", "worth"), [(False, 2.0), (True, 1.0)])
def test_a_time_limit_is_no_end(over: bool, worth: float, tmp_path: Path) -> None:
    """A reward of 1 for ever is worth 1 / (1 - γ) = 2, also where episodes are cut."""
    tables = {**STORED, "credit": {"gamma": 0.5}, "run": {"steps": 3}}
    tables["data"] = {"source": "control:endless", "parameters": {"over": over}}
    _, line = learned(tmp_path, "ddpg", "control:endless", **tables)
    assert line["critic/q_mean"] == pytest.approx(worth, rel=0.02)
