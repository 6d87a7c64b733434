"""Rows in control: the same files as on text, environments in the place of prompts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polopt
from polopt.algorithms import ROWS, row
from polopt.assembly.chosen import chosen
from polopt.credit import Credit, assign, earned, step_action_value, step_gae
from polopt.errors import DataError, RecipeError
from polopt.models.network import (
    Normaliser,
    PolicyNetwork,
    QNetwork,
    Specification,
)
from polopt.recipe import load
from polopt.resolution import describe, describe_row, differences, resolve, settings
from polopt.roles.control import StepActionCritic, StepActor
from polopt.roles.policies import categorical, gaussian, tanh_gaussian
from polopt.types import Experience, StepRows
from polopt.update.normalisers import RewardScale
from runs import Crash, lines, metrics, unexplained

BASE: dict[str, Any] = {
    "model": {"path": "builtin:mlp"},
    "data": {"source": "control:cartpole"},
    "run": {"threads": 1},
}
IN_CONTROL = [name for name in ROWS if "control" in row(name).domains]
OFF_POLICY = [name for name in IN_CONTROL if row(name).domains == ("control",)]
FROM_A_BUFFER: dict[str, Any] = {
    "episodes": {"steps": 10},
    "replay": {"start_steps": 20, "size": 100},
    "update": {"batch_size": 16},
}
SHORT: dict[str, dict[str, Any]] = {
    "ppo": {"update": {"epochs": 2, "minibatches": 2}, "episodes": {"steps": 32}},
    "trpo": {"critic": {"epochs": 2}},
    **dict.fromkeys(OFF_POLICY, FROM_A_BUFFER),
}


def weights(run: Path) -> dict[str, str]:
    last = run / "checkpoints" / "last"
    files = sorted(path for path in last.rglob("*.safetensors"))
    return {str(p.relative_to(last)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def train(directory: Path, name: str, source: str = "control:cartpole", **tables: Any) -> None:
    short = SHORT.get(name, {})
    recipe = {
        **BASE,
        **short,
        "algorithm": name,
        "data": {"source": source},
        "episodes": {"environments": 4, **short.get("episodes", {}), **tables.pop("episodes", {})},
        "evaluation": {"episodes": 3, **tables.pop("evaluation", {})},
        "run": {"steps": 4, "threads": 1, "checkpoint_every": 2, "directory": str(directory)},
    }
    polopt.train({**recipe, **tables.pop("more", {})}, **tables)


# Distributions


def test_a_categorical_policy_by_hand() -> None:
    """Logits 0, log 3: probabilities ¼ and ¾."""
    logits = torch.tensor([0.0, 3.0]).log().clamp(min=0.0)[None]
    logits = torch.tensor([[0.0, float(np.log(3.0))]])
    logp = categorical.log_prob(logits.expand(2, 2), torch.tensor([0, 1]))
    assert logp.exp().tolist() == pytest.approx([0.25, 0.75])
    assert float(categorical.entropy(logits)) == pytest.approx(0.562335, abs=1e-5)
    draws = categorical.sample(logits.expand(20_000, 2), torch.Generator().manual_seed(0))
    assert draws.double().mean() == pytest.approx(0.75, abs=0.01)
    assert categorical.mode(logits).tolist() == [1]


def test_a_gaussian_policy_is_that_of_torch() -> None:
    parameters = torch.tensor([[0.5, -1.0, 0.2, -0.3]])
    actions = torch.tensor([[0.1, 0.4]])
    twin = torch.distributions.Normal(parameters[:, :2], parameters[:, 2:].exp())
    torch.testing.assert_close(
        gaussian.log_prob(parameters, actions), twin.log_prob(actions).sum(-1)
    )
    torch.testing.assert_close(gaussian.entropy(parameters), twin.entropy().sum(-1))
    draws = gaussian.sample(parameters.expand(40_000, 4), torch.Generator().manual_seed(0))
    assert draws.mean(0).tolist() == pytest.approx([0.5, -1.0], abs=0.02)
    assert draws.std(0).tolist() == pytest.approx(np.exp([0.2, -0.3]), abs=0.02)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (1.0, 0.0), (-2.0, 0.5)])
def test_a_squashed_policy_is_that_of_torch(mean: float, log_std: float) -> None:
    parameters = torch.tensor([mean, log_std], dtype=torch.float64)
    u = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    normal = torch.distributions.Normal(parameters[0], parameters[1].exp())
    twin = torch.distributions.TransformedDistribution(
        normal, [torch.distributions.TanhTransform()]
    )
    near = u.abs()[:, 0] < 3  # where its inverse is exact
    logp = tanh_gaussian.log_prob(parameters.expand(len(u), 2), u)
    torch.testing.assert_close(logp[near], twin.log_prob(u[near].tanh())[:, 0])
    entropy = -(normal.log_prob(u[:, 0]).exp() * logp).sum() * 1e-3
    assert tanh_gaussian.entropy(parameters).item() == pytest.approx(entropy.item(), abs=1e-3)


def test_squashed_actions_stay_inside_what_the_environment_takes(tmp_path: Path) -> None:
    flags = {"network.distribution": "squashed", "network.log_std": 3.0}
    train(tmp_path / "run", "ppo", "control:pendulum", flags=flags)
    policy = polopt.load(tmp_path / "run")
    drawn = policy.act(np.zeros((999, 3)), deterministic=False)
    assert np.abs(drawn).max() <= 2.0 and np.abs(drawn).max() > 1.99
    with pytest.raises(RecipeError, match=r"distribution: squashed is not allowed with the disc"):
        train(tmp_path / "other", "ppo", flags=flags)


# Credit


def steps(**fields: Any) -> Experience:
    count = len(fields["step_rewards"])
    given = {name: torch.tensor([value]) for name, value in fields.items()}
    defaults = {
        "terminated": torch.zeros(1, count, dtype=torch.bool),
        "cut": torch.zeros(1, count, dtype=torch.bool),
        "mask": torch.ones(1, count, dtype=torch.bool),
    }
    return Experience(
        group=torch.zeros(1, dtype=torch.int64), rewards=torch.zeros(1), **{**defaults, **given}
    )


def advantages(experience: Experience, gamma: float, lam: float) -> list[float]:
    credit = Credit(shapers=(earned,), returns=step_gae(gamma, lam))
    return assign(experience, credit).advantages[0].tolist()


def test_a_time_limit_keeps_the_value_of_what_follows_and_an_end_does_not() -> None:
    """Reward 1 for ever is worth 10 with γ = .9: a cut episode is worth it too."""
    fields = {"step_rewards": [1.0, 1.0], "values": [10.0, 10.0], "next_values": [10.0, 10.0]}
    cut = steps(**fields, cut=[False, True])
    assert advantages(cut, 0.9, 1.0) == pytest.approx([0.0, 0.0], abs=1e-6)
    over = steps(**fields, terminated=[False, True])
    assert advantages(over, 0.9, 1.0) == pytest.approx([-8.1, -9.0])
    both = steps(**fields, terminated=[False, True], cut=[False, True])
    assert advantages(both, 0.9, 1.0) == pytest.approx([-8.1, -9.0])  # termination wins


def test_a_step_that_only_began_an_episode_is_skipped() -> None:
    fields = {
        "step_rewards": [1.0, 2.0, 99.0, 3.0],
        "values": [0.5, 0.5, 99.0, 0.5],
        "next_values": [0.5, 0.0, 99.0, 0.7],
        "terminated": [False, True, False, False],
        "mask": [True, True, False, True],
    }
    without = {name: [v[0], v[1], v[3]] for name, v in fields.items()}
    a, b = advantages(steps(**fields), 0.9, 0.8), advantages(steps(**without), 0.9, 0.8)
    assert [a[0], a[1], a[3]] == pytest.approx(b)
    assert a[2] == 0.0


# Statistics


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(300, 3, generator=generator) * 5 + 2
    one = Normaliser(3)
    for part in seen.split([1, 99, 200]):
        one.see(part)
    torch.testing.assert_close(one.mean, seen.double().mean(0))
    torch.testing.assert_close(one.variance, seen.double().var(0, correction=0))
    scaled = one(seen)
    assert scaled.mean().abs() < 1e-6 and scaled.std(correction=0) == pytest.approx(1.0, abs=1e-3)


def test_rewards_are_divided_by_the_spread_of_returns() -> None:
    """Returns with γ = .5: 2, 1 and, after the end, 4: mean 7/3, variance 14/9."""

    class Taken:
        rewards = np.array([[2.0, 0.0, 4.0]])
        terminated = np.array([[False, True, False]])
        truncated = np.zeros((1, 3), dtype=np.bool_)
        valid = np.ones((1, 3), dtype=np.bool_)
        anew = False

    scale = RewardScale(1, 0.5)
    expected = Taken.rewards[0] / np.sqrt(14 / 9 + 1e-8)
    assert scale.scaled(Taken())[0] == pytest.approx(expected)
    other = RewardScale(1, 0.5)
    other.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    assert np.array_equal(other.scaled(Taken()), scale.scaled(Taken()))


def test_nothing_is_left_of_an_episode_that_was_given_up() -> None:
    """The return of the second batch is 2 where episodes begin with it, and 2 + γ 4 otherwise."""

    class Taken:
        rewards = np.array([[4.0]])
        terminated = truncated = np.array([[False]])
        valid = np.array([[True]])
        anew = False

    class Again(Taken):
        rewards = np.array([[2.0]])
        anew = True

    scale = RewardScale(1, 0.5)
    scale.scaled(Taken())
    assert scale.scaled(Again())[0] == pytest.approx([2.0])  # of 4 and 2; else of 4 and 4: 1e4


# What is said of it


@pytest.mark.parametrize("name", [name for name in ROWS if len(row(name).domains) > 1])
def test_what_differs_in_control_is_told_and_has_an_effect_there(name: str) -> None:
    stage = resolve(load({**BASE, "algorithm": name})).stages[0]
    told = {
        field: v for entry in differences(name, "control") for field, v in entry["settings"].items()
    }
    said = settings(stage)
    assert told.items() <= said.items()
    assert {"episodes.environments", "update.learning_rate"} & told.keys()
    columns = {(e["column"], e["choice"]): e for e in describe_row(name, "control")}
    for entry in describe(stage):
        same = columns[entry["column"], entry["choice"]]
        assert (entry["equation"], entry["file"]) == (same["equation"], same["file"])
        assert not entry["file"] or (Path(__file__).parents[2] / entry["file"]).is_file()
    chosen("returns", stage), chosen("baseline", stage)


# Runs


@pytest.mark.parametrize(
    ("name", "source"),
    [(name, "control:pendulum") for name in IN_CONTROL]
    + [(name, "control:cartpole") for name in IN_CONTROL if name not in OFF_POLICY],
)
def test_a_row_takes_steps_in_control(name: str, source: str, tmp_path: Path) -> None:
    train(tmp_path / "run", name, source, evaluation={"every": 2})
    found = {
        key: value for line in lines(tmp_path / "run", "metrics") for key, value in line.items()
    }
    assert found["policy/grad_norm"] > 0
    assert unexplained(found) == []
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"return_mean_before", "return_mean_after", "evaluation_episodes"} <= summary.keys()
    assert summary["return_mean"] == summary["return_mean_after"]
    assert 0 <= summary["reached_limit"] <= 1
    policy = polopt.load(tmp_path / "run")
    size = policy.actor.network.made_of.observation_size
    alone, many = policy.act(np.zeros(size)), policy.act(np.zeros((3, size)))
    assert alone == pytest.approx(many[0])
    assert many.dtype == (np.int64 if source == "control:cartpole" else np.float32)
    with pytest.raises(DataError, match="observations: shape"):
        policy.act(np.zeros(size + 1))


def test_each_call_draws_anew_and_a_seed_draws_the_same(tmp_path: Path) -> None:
    train(tmp_path / "run", "ppo", "control:pendulum")
    one, two = polopt.load(tmp_path / "run"), polopt.load(tmp_path / "run")
    seen = np.zeros(3)
    drawn = [float(one.act(seen, deterministic=False)[0]) for _ in range(4)]
    assert len(set(drawn)) == 4
    assert [float(two.act(seen, deterministic=False)[0]) for _ in range(4)] == drawn
    assert one.act(seen, deterministic=False, seed=3) == two.act(seen, deterministic=False, seed=3)


def test_observations_are_taken_in_the_shape_of_the_environment(tmp_path: Path) -> None:
    train(tmp_path / "run", "ppo")  # four numbers
    policy = polopt.load(tmp_path / "run")
    alone = policy.act(np.ones((2, 2)))
    assert alone.shape == () and alone == policy.act(np.ones(4))
    assert policy.act(np.ones((3, 2, 2))).shape == (3,)
    assert policy.act(np.ones((0, 4))).shape == (0,)
    for wrong, told in (
        (np.ones(3), r"shape \(3,\); 4 numbers, or \(N, 4\)$"),
        (2, r"a number among n is n flags, np.eye\(n\)\[number\]"),
        ([np.nan, 0, 0, 0], "not all are finite numbers"),
        ((np.ones(4), {}), "a tuple that is no array of numbers; the observation alone"),
        ("left", "a str that is no array of numbers"),
    ):
        with pytest.raises(DataError, match=told):
            policy.act(wrong)


def test_the_best_weights_are_loaded_as_the_last_are(tmp_path: Path) -> None:
    train(tmp_path / "run", "ppo", flags={"run.checkpoint_every": 1, "run.keep": 4})
    checkpoints = tmp_path / "run" / "checkpoints"
    seen = np.linspace(-1, 1, 4)
    for name in ("last", "best", "step_1"):
        drawn = polopt.load(checkpoints / name).act(seen, deterministic=False, seed=1)
        assert drawn in (0, 1)
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]["return_mean"]
    assert polopt.evaluate(checkpoints / "best")[0].metrics["return_mean"] == best
    logits = [polopt.load(checkpoints / n).actor.network.body[0].weight for n in ("step_1", "last")]
    assert not torch.equal(*logits)


@pytest.mark.parametrize(
    ("name", "source", "more"),
    [
        ("ppo", "control:cartpole", {}),
        ("ppo", "control:pendulum", {"normalise_observations": True, "normalise_rewards": True}),
        ("reinforce", "control:cartpole", {}),
        ("trpo", "control:pendulum", {}),
        ("q_actor_critic", "control:pendulum", {}),
        ("a2c", "control:Acrobot-v1", {}),
        ("ppo", "control:biped", {"normalise_observations": True, "normalise_rewards": True}),
    ],
)
def test_a_run_resumes_bit_for_bit(
    name: str, source: str, more: dict[str, Any], tmp_path: Path
) -> None:
    if source not in ("control:cartpole", "control:pendulum"):
        pytest.importorskip("mujoco" if source == "control:biped" else "gymnasium")

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    tables = {"episodes": more, "evaluation": {"episodes": 1}}
    train(tmp_path / "whole", name, source, **tables)
    with pytest.raises(Crash):
        train(tmp_path / "broken", name, source, **tables, observers=[crash])
    polopt.resume(tmp_path / "broken")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_whoever_saves_and_evaluates_does_not_disturb(name: str, tmp_path: Path) -> None:
    """Episodes of gymnasium go on through a checkpoint; here they are of 300 steps, not of 999."""
    pytest.importorskip("gymnasium")
    source, limit = "control:MountainCarContinuous-v0", {"data.parameters.max_episode_steps": 300}
    often = {"run.checkpoint_every": 1, "evaluation.every": 1}
    for run, flags in (("often", often), ("once", {"run.checkpoint_every": 4})):
        train(tmp_path / run, name, source, flags=flags | limit)
    assert weights(tmp_path / "often") == weights(tmp_path / "once")


def test_the_same_seed_is_the_same_curve_and_another_one_another(tmp_path: Path) -> None:
    for run, seed in (("one", 1), ("two", 1), ("other", 2)):
        train(tmp_path / run, "ppo", flags={"run.seed": seed})
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert metrics(tmp_path / "one") != metrics(tmp_path / "other")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"algorithm": "grpo"}, 'data.source: "control:cartpole" is not allowed in grpo'),
        ({"algorithm": "ppo", "rollout.group_size": 4}, "rollout.group_size: 4 has no effect"),
        ({"algorithm": "ppo", "credit.returns": "reward_to_go"}, "episodes.whole: false is not"),
        ({"algorithm": "ppo", "model.path": "builtin:tiny"}, 'model.path: "builtin:tiny" is not'),
        ({"algorithm": "reinforce", "episodes.steps": 9}, "episodes.steps: 9 has no effect"),
        ({"algorithm": "a2c", "update.epochs": 2}, "update.epochs: 2 is not allowed"),
        (
            {"episodes.environments": 2, "episodes.steps": 3, "update.minibatches": 7},
            "update.minibatches: 7 is not allowed; at most one for each of the 6 steps",
        ),
        (
            {"algorithm": "trpo", "episodes.environments": 2, "episodes.steps": 3},
            "critic.minibatches: 8 is not allowed; at most one for each of the 6 steps",
        ),
        (
            {
                "algorithm": "td_actor_critic",
                "episodes.environments": 1,
                "episodes.steps": 1,
            },
            "credit.normalisation: batch_z is not allowed with a batch of 1 step",
        ),
        ({"run.device": "cuda"}, 'run.device: "cuda" is not allowed with data.source = "control:'),
        ({"algorithm": "pg", "credit.gamma": 0.9}, "credit.gamma: 0.9 has no effect with credit.r"),
        (
            {"algorithm": "reinforce", "credit.baseline": "leave_one_out"},
            'credit.baseline: "leave_one_out" is not allowed in control; none, constant, ema',
        ),
        (
            {"algorithm": "reinforce", "credit.baseline": "ema"},
            'credit.baseline: "ema" has no effect with credit.normalisation = batch_z',
        ),
        (
            {"algorithm": "q_actor_critic", "credit.baseline": "value"},
            'credit.baseline: "value" is not allowed with credit.returns = q',
        ),
        (
            {"algorithm": "ppo", "objective.bound": "sapo"},
            'objective.bound: "sapo" is not allowed in control; none, clip or kl_penalty',
        ),
        (
            {"algorithm": "ppo", "objective.penalty_target": 0.01},
            "objective.penalty_target: 0.01 has no effect with objective.bound",
        ),
        (
            {
                "algorithm": "ppo",
                "data.source": "task:reverse",
                "model.path": "builtin:tiny",
                "network.activation": "relu",
            },
            'network.activation: "relu" has no effect with data.source = "task:reverse"',
        ),
    ],
)
def test_what_a_recipe_cannot_say(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        resolve(load({**BASE, "algorithm": "ppo"}, flags))
    assert str(error.value).startswith(told), str(error.value)


def test_gamma_has_an_effect_where_rewards_are_divided_by_the_spread_of_returns() -> None:
    flags = {"credit.gamma": 0.9, "episodes.normalise_rewards": True}
    assert resolve(load({**BASE, "algorithm": "pg"}, flags)).stages[0].credit.gamma == 0.9


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"algorithm": "sac"}, "data.source: control:cartpole has 2 actions to choose from; sac"),
        ({"network.log_std": 0.5}, "network.log_std: 0.5 has no effect with the discrete actions"),
        ({"network.distribution": "squashed"}, "network.distribution: squashed is not allowed"),
        (
            {
                "algorithm": "sac",
                "data.source": "control:pendulum",
                "temperature.target_entropy": 0.7,
            },
            "temperature.target_entropy: 0.7 is not allowed; less than 0.693",
        ),
        (
            {
                "algorithm": "reinforce",
                "data.source": "control:pendulum",
                "credit.baseline": "action",
                "credit.normalisation": "none",
            },
            "credit.baseline: action is not allowed with the continuous actions of control:pend",
        ),
        (
            {"until.metric": "retrun_mean", "until.at_least": 1.0, "evaluation.every": 1},
            'until.metric: "retrun_mean" is not allowed with control:cartpole; return_mean, retur',
        ),
        (
            {"data.parameters.max_episode_steps": 0},
            "data.parameters.max_episode_steps: 0 is not allowed; an integer >= 1",
        ),
        (
            {"data.parameters.max_episode_step": 9},
            "data.parameters.max_episode_step: unknown; did you mean max_episode_steps?",
        ),
        (
            {"data.parameters.observation_size": 9},
            "data.parameters.observation_size: unknown; allowed: max_episode_steps",
        ),
    ],
)
def test_what_an_environment_rules_out_is_told_by_check(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        polopt.check({"algorithm": "ppo", **BASE}, flags)
    assert str(error.value).startswith(told), str(error.value)


@pytest.mark.parametrize("metric", ["reached_limit", "distance_m"])
def test_a_stage_may_wait_for_what_an_environment_says(metric: str) -> None:
    pytest.importorskip("mujoco")
    flags = {"data.source": "control:biped", "until.metric": metric, "until.at_least": 1.0}
    assert polopt.check({"algorithm": "ppo", **BASE}, {**flags, "evaluation.every": 1})


def test_an_episode_is_as_long_as_it_is_told(tmp_path: Path) -> None:
    flags = {"data.parameters.max_episode_steps": 7}
    train(tmp_path / "run", "ppo", "control:pendulum", flags=flags)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["length"] == 7


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_batch_has_a_step_even_where_all_episodes_begin(name: str, tmp_path: Path) -> None:
    """Episodes of two steps, one step a batch, and one that only begins the next of them."""
    pytest.importorskip("gymnasium")
    flags = {"data.parameters.max_episode_steps": 2, "episodes.steps": 1, "update.minibatches": 1}
    train(tmp_path / "run", name, "control:MountainCarContinuous-v0", flags=flags)
    assert [line["steps"] for line in metrics(tmp_path / "run") if "steps" in line] == [4] * 4


def test_a_reward_from_python_is_nothing_in_control(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"reward: a function has no effect with data\.source = c"
    ):
        polopt.train({**BASE, "algorithm": "ppo"}, reward=lambda completions: [0.0])


def test_an_unknown_environment_is_told_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(RecipeError, match="did you mean control:CartPole-v1"):
        train(tmp_path / "run", "ppo", "control:CartPol-v1")


def test_the_value_of_an_action_learns_from_the_mean_over_the_next_one() -> None:
    """Q = 3, 5; rewards 1, 2; the means of what follows are 4 and, cut, 10; γ = .5."""
    fields = {"step_rewards": [1.0, 2.0], "values": [3.0, 5.0], "next_values": [4.0, 10.0]}
    credit = Credit(shapers=(earned,), returns=step_action_value(0.5))
    found = assign(steps(**fields, cut=[False, True]), credit)
    assert found.advantages[0].tolist() == [3.0, 5.0]
    assert found.value_targets is not None
    assert found.value_targets[0].tolist() == [3.0, 7.0]
    over = assign(steps(**fields, terminated=[False, True]), credit)
    assert over.value_targets is not None
    assert over.value_targets[0].tolist() == [3.0, 2.0]


def test_the_mean_over_actions_is_that_of_the_policy() -> None:
    made_of = Specification(2, 3, "categorical", (4,), "tanh", 0.0, False)
    generator = torch.Generator().manual_seed(0)
    actor = StepActor(PolicyNetwork(made_of, generator))
    critic = StepActionCritic(QNetwork(made_of, None, generator))
    seen = torch.randn(2, 5, 2, generator=generator)
    q = torch.stack(
        [critic.before(StepRows(seen, torch.full((2, 5), action))) for action in range(3)], -1
    )
    logp = actor.score(StepRows(seen, torch.zeros(2, 5, dtype=torch.int64)), {"distribution"})
    assert logp.distribution is not None
    expected = (logp.distribution.exp() * q).sum(-1)
    torch.testing.assert_close(critic.after(actor, seen, generator), expected)


@pytest.mark.parametrize(
    ("baseline", "more"),
    [
        ("none", {}),
        ("constant", {"credit.baseline_constant": 5.0}),
        ("ema", {}),
        ("running_mean", {}),
        ("value", {}),
        ("action", {}),
    ],
)
def test_every_baseline_of_reinforce(baseline: str, more: dict[str, Any], tmp_path: Path) -> None:
    flags = {"credit.baseline": baseline, "credit.normalisation": "none", "credit.gamma": 1.0}
    train(tmp_path / "run", "reinforce", flags=flags | more)
    found = [line for line in lines(tmp_path / "run", "metrics") if "policy/loss" in line]
    assert all(line["policy/grad_norm"] > 0 for line in found)
    assert ("critic/value_loss" in found[0]) == (baseline in ("value", "action"))
    assert ("policy/baseline_correction" in found[0]) == (baseline == "action")
    if baseline == "running_mean":  # with γ = 1 steps are followed by 1, 2 ... n rewards
        batches = [line["advantage_mean"] + line["baseline/value"] for line in found]
        steps_of = [line["steps"] for line in found]
        mean = np.average(batches[:3], weights=steps_of[:3])
        assert found[3]["baseline/value"] == pytest.approx(mean, rel=1e-4)


def test_a_baseline_of_infinitely_many_actions_is_told(tmp_path: Path) -> None:
    flags = {"credit.baseline": "action", "credit.normalisation": "none"}
    with pytest.raises(RecipeError, match=r"baseline: action is not allowed with the cont"):
        train(tmp_path / "run", "reinforce", "control:pendulum", flags=flags)


def test_the_penalty_of_ppo_follows_its_target(tmp_path: Path) -> None:
    flags = {
        "objective.bound": "kl_penalty",
        "objective.penalty_coefficient": 4.0,
        "objective.penalty_target": 1e3,
    }
    train(tmp_path / "run", "ppo", "control:pendulum", flags=flags)
    found = [line for line in lines(tmp_path / "run", "metrics") if "penalty/kl" in line]
    assert [line["penalty/coefficient"] for line in found] == [4.0, 2.0, 1.0, 0.5]
    assert all(0 < line["penalty/kl"] < 1e3 for line in found)


def test_two_gaussians_are_as_far_apart_as_torch_says() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(4, 6, generator=generator) for _ in range(2))
    normals = [torch.distributions.Normal(x[:, :3], x[:, 3:].exp()) for x in (old, new)]
    expected = torch.distributions.kl_divergence(*normals).sum(-1)
    torch.testing.assert_close(gaussian.divergence(old, new), expected)


@pytest.mark.parametrize("source", ["control:cartpole", "control:pendulum"])
def test_every_step_of_trpo_stays_inside_the_region(source: str, tmp_path: Path) -> None:
    train(tmp_path / "run", "trpo", source, flags={"run.steps": 8})
    taken = [line for line in lines(tmp_path / "run", "metrics") if "policy/kl" in line]
    assert sum(line["policy/accepted"] for line in taken) >= 6
    assert all(line["policy/kl"] <= 0.01 for line in taken)
    assert max(line["policy/kl"] for line in taken) > 0.001


def test_ppo_learns_to_balance(tmp_path: Path) -> None:
    """A third of the recipe; CONTROL.md's gate is 475 within 50,000 steps (make test-control)."""
    recipe = Path(__file__).parents[2] / "recipes" / "cartpole_ppo.toml"
    flags = {"run.directory": str(tmp_path / "run"), "run.steps": 20, "evaluation.every": 0}
    summary = polopt.train(recipe, flags=flags | {"evaluation.episodes": 20}).summary
    assert summary["return_mean_after"] > 3 * summary["return_mean_before"] or (
        summary["return_mean_after"] > 400
    )


def test_a_policy_is_evaluated_again_where_and_how_one_likes(tmp_path: Path) -> None:
    train(tmp_path / "run", "ppo", "control:cartpole")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    again = polopt.evaluate(tmp_path / "run")[0].metrics
    assert again == {name: summary[name] for name in again}  # the same starts, the same weights
    last = tmp_path / "run" / "checkpoints" / "last"
    (more,) = polopt.evaluate(last, flags={"data.source": "control:cartpole", "run.seed": 7})
    assert more.metrics["return_mean"] != again["return_mean"]
    with pytest.raises(RecipeError, match="--k: 4 is not allowed in control, where"):
        polopt.evaluate(tmp_path / "run", k=4)


def test_trpo_learns_to_balance(tmp_path: Path) -> None:
    """Half of the recipe; the whole of it is in make test-control."""
    recipe = Path(__file__).parents[2] / "recipes" / "cartpole_trpo.toml"
    flags = {"run.directory": str(tmp_path / "run"), "run.steps": 12}
    summary = polopt.train(recipe, flags=flags | {"evaluation.episodes": 20}).summary
    assert summary["return_mean_after"] > 300
