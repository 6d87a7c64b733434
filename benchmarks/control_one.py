"""Trainings in one environment by one library, and what becomes of them: ``control.py`` runs these.

    echo '{"library": "chance", "environment": "cartpole"}' | python benchmarks/control_one.py

A line of JSON on standard output for each on standard input. Stable-Baselines3
gets its arguments from the fields of our recipe, once the row has settled them:
docs/settings_map.md is the same in words.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import polopt
import polopt.envs.control  # the walker registers itself
from polopt.recipe import load
from polopt.resolution import resolve, settings

Flags = Mapping[str, Any]  # dotted field: value
Act = Callable[[Any], Any]
Episodes = Iterable[tuple[float, float]]  # environment steps so far, return

EPISODES = 100  # of an evaluation
EVALUATION_SEED = 10_000  # of the first; training has small ones
BINS = 20  # of a curve
OURS, THEIRS, CHANCE = "polopt", "stable_baselines3", "chance"


@dataclass(frozen=True)
class Environment:
    """An environment under its name here and in gymnasium."""

    source: str
    id: str


ENVIRONMENTS: Mapping[str, Environment] = {
    "cartpole": Environment("control:cartpole", "CartPole-v1"),
    "pendulum": Environment("control:pendulum", "Pendulum-v1"),
    "walker": Environment("control:biped", "polopt/BipedWalk-v0"),
    "halfcheetah": Environment("control:HalfCheetah-v5", "HalfCheetah-v5"),
    "hopper": Environment("control:Hopper-v5", "Hopper-v5"),
}
COMMON: Flags = {
    "model.path": "builtin:mlp",
    "evaluation.episodes": 1,  # its own; the one that counts is below, the same for all
    "run.device": "cpu",
    "run.threads": 1,
}


def written(flags: Flags, environment: str, steps: int) -> dict[str, Any]:
    """The flags of a recipe that takes ``steps`` steps in the environments."""
    whole = {**COMMON, "data.source": ENVIRONMENTS[environment].source, **flags}
    if "run.steps" in flags:  # whole episodes: their number of steps is not known before
        return whole
    fields = settings(resolve(load({"algorithm": flags["algorithm"]}, whole)).stages[0])
    start = fields.get("replay.start_steps", 0)
    return {**whole, "run.steps": (steps - start) // batch(fields)}


def settled(flags: Flags, environment: str, steps: int) -> dict[str, Any]:
    """Every field that has an effect, as the row and the flags decide it."""
    whole = written(flags, environment, steps)
    return settings(resolve(load({"algorithm": flags["algorithm"]}, whole)).stages[0])


def batch(fields: Flags) -> int:
    """Steps in the environments between two lines of metrics."""
    return fields["episodes.environments"] * fields["episodes.steps"]


def taken(fields: Flags) -> int:
    """Steps in the environments, random ones included."""
    return fields.get("replay.start_steps", 0) + fields["run.steps"] * batch(fields)


# the same settings for the other library


def policy_gradient(fields: Flags) -> dict[str, Any]:
    """What PPO, A2C and TRPO have in common."""
    return {
        "learning_rate": fields["critic.learning_rate"],
        "n_steps": fields["episodes.steps"],
        "gamma": fields["credit.gamma"],
        "gae_lambda": fields["credit.lambda"],
        "normalize_advantage": fields["credit.normalisation"] != "none",
        "policy_kwargs": {
            **network(fields),
            "log_std_init": fields.get("network.log_std", 0.0),
        },
    }


def network(fields: Flags) -> dict[str, Any]:
    """Widths, and the name of the activation."""
    return {
        "net_arch": [*fields["network.hidden"]],
        "activation_fn": fields["network.activation"],
    }


def first_order(fields: Flags) -> dict[str, Any]:
    """What PPO and A2C have in common: one optimiser for policy and critic."""
    assert fields["critic.learning_rate"] == fields["update.learning_rate"]
    return {
        **policy_gradient(fields),
        "ent_coef": fields["objective.entropy_coefficient"],
        "max_grad_norm": fields["update.max_grad_norm"],
    }


def ppo(fields: Flags) -> dict[str, Any]:
    """Of stable_baselines3.PPO."""
    assert fields["objective.clip_low"] == fields["objective.clip_high"]
    return {
        **first_order(fields),
        "batch_size": batch(fields) // fields["update.minibatches"],
        "n_epochs": fields["update.epochs"],
        "clip_range": fields["objective.clip_low"],
        "clip_range_vf": fields["critic.clip"] or None,
    }


def a2c(fields: Flags) -> dict[str, Any]:
    """Of stable_baselines3.A2C; with Adam in the place of RMSprop, as here."""
    return {**first_order(fields), "use_rms_prop": False}


def trpo(fields: Flags) -> dict[str, Any]:
    """Of sb3_contrib.TRPO; its learning rate is the critic's."""
    return {
        **policy_gradient(fields),
        "batch_size": batch(fields) // fields["critic.minibatches"],
        "n_critic_updates": fields["critic.epochs"],
        "target_kl": fields["trust_region.delta"],
        "cg_max_steps": fields["trust_region.cg_iterations"],
        "cg_damping": fields["trust_region.damping"],
        "line_search_shrinking_factor": fields["trust_region.backtrack"],
        "line_search_max_iter": fields["trust_region.line_search_steps"],
    }


def off_policy(fields: Flags) -> dict[str, Any]:
    """What DDPG and SAC have in common: one rate, updates after a step of all environments."""
    assert fields["critic.learning_rate"] == fields["update.learning_rate"]
    updates = fields["episodes.environments"] * fields["replay.updates_per_step"]
    assert updates == round(updates)
    return {
        "learning_rate": fields["update.learning_rate"],
        "buffer_size": fields["replay.size"],
        "learning_starts": fields["replay.start_steps"],
        "batch_size": fields["update.batch_size"],
        "tau": fields["critic.tau"],
        "gamma": fields["credit.gamma"],
        "train_freq": 1,
        "gradient_steps": round(updates),
        "policy_kwargs": network(fields),
    }


def ddpg(fields: Flags) -> dict[str, Any]:
    """Of stable_baselines3.DDPG; dt of its noise is 1, as here."""
    noise = None
    if fields["exploration.noise"] != "none":
        noise = {
            key: fields[f"exploration.{key}"]
            for key in ("noise", "sigma", "theta")
            if f"exploration.{key}" in fields
        }
    return {**off_policy(fields), "action_noise": noise}


def sac(fields: Flags) -> dict[str, Any]:
    """Of stable_baselines3.SAC."""
    assert fields["temperature.loss"] == "log"
    rate = fields.get("temperature.learning_rate", fields["update.learning_rate"])
    assert rate == fields["update.learning_rate"]
    first = fields["temperature.initial"]
    return {
        **off_policy(fields),
        "ent_coef": "auto" if first == 1.0 else f"auto_{first}",
        "target_entropy": fields.get("temperature.target_entropy", "auto"),
    }


@dataclass(frozen=True)
class Peer:
    """A class of the other library, and its arguments from our fields."""

    module: str
    name: str
    arguments: Callable[[Flags], dict[str, Any]]


PEERS: Mapping[str, Peer] = {
    "a2c": Peer("stable_baselines3", "A2C", a2c),
    "ppo": Peer("stable_baselines3", "PPO", ppo),
    "trpo": Peer("sb3_contrib", "TRPO", trpo),
    "ddpg": Peer("stable_baselines3", "DDPG", ddpg),
    "sac": Peer("stable_baselines3", "SAC", sac),
}


# training


def ours(flags: Flags, environment: str, steps: int, seed: int) -> dict[str, Any]:
    """By this library, with everything that it writes."""
    recipe = {"algorithm": flags["algorithm"]}
    with TemporaryDirectory() as place:
        whole = {**written(flags, environment, steps), "run.seed": seed}
        whole["run.directory"] = str(Path(place) / "run")
        clock = Clock()
        run = polopt.train(recipe, flags=whole)
        spent = clock.read()
        taken, curve = ours_by_steps(run.directory)
        policy = polopt.load(run.directory)
        return {
            **spent,
            "steps": taken,
            "curve": curve,
            "returns": evaluated(policy.act, environment),
        }


def ours_by_steps(run: Path) -> tuple[int, list[tuple[int, float]]]:
    """Steps taken, and the curve of the episodes of training."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps, found = 0.0, list[tuple[float, float, float]]()
    for line in map(json.loads, lines):
        steps += line.get("steps", 0.0)
        if "return/mean" in line:
            found.append((steps, line["return/mean"], line["episodes"]))
    return int(steps), curve(found, steps)


def theirs(flags: Flags, environment: str, steps: int, seed: int) -> dict[str, Any]:
    """By Stable-Baselines3, in environments of gymnasium."""
    fields = settled(flags, environment, steps)
    env, model = made(fields, environment, steps, seed)
    clock = Clock()
    model.learn(steps)
    spent = clock.read()
    monitors = zip(
        env.env_method("get_episode_lengths"), env.env_method("get_episode_rewards"), strict=True
    )
    ended = [
        (float(end), total, 1.0)
        for lengths, totals in monitors
        for end, total in zip(np.cumsum(lengths) * model.n_envs, totals, strict=True)
    ]

    def act(observations: Any) -> Any:
        seen = env.normalize_obs(observations) if hasattr(env, "normalize_obs") else observations
        return model.predict(seen, deterministic=True)[0]

    taken = model.num_timesteps
    return {
        **spent,
        "steps": taken,
        "curve": curve(ended, taken),
        "returns": evaluated(act, environment),
    }


def made(fields: Flags, environment: str, steps: int, seed: int) -> tuple[Any, Any]:
    """Environments and a model that has learnt nothing."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env: Any = make_vec_env(
        ENVIRONMENTS[environment].id, n_envs=fields["episodes.environments"], seed=seed
    )
    seen, earned = (fields.get(f"episodes.normalise_{x}") for x in ("observations", "rewards"))
    if seen or earned:
        gamma = fields["credit.gamma"]
        env = VecNormalize(env, norm_obs=bool(seen), norm_reward=bool(earned), gamma=gamma)
    peer = PEERS[fields["algorithm"]]
    arguments = peer.arguments(fields)
    if fields["update.decay"] == "linear":
        rate, part = arguments["learning_rate"], batch(fields) / steps
        # Their progress is counted after a batch, ours before it.
        arguments["learning_rate"] = lambda left: rate * (left + part)
    arguments["policy_kwargs"] = with_activation(arguments["policy_kwargs"])
    if arguments.get("action_noise"):
        arguments["action_noise"] = noise(arguments["action_noise"], env.action_space.shape)
    model = getattr(import_module(peer.module), peer.name)
    return env, model("MlpPolicy", env, seed=seed, device="cpu", **arguments)


def with_activation(policy: dict[str, Any]) -> dict[str, Any]:
    """The class of the activation in the place of its name."""
    from torch import nn

    return {**policy, "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU}[policy["activation_fn"]]}


def noise(asked: Flags, shape: tuple[int, ...]) -> Any:
    """Their noise on actions in [-1, 1], with the steps of ours."""
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    mean, sigma = np.zeros(shape), np.full(shape, asked["sigma"])
    if asked["noise"] == "gaussian":
        return NormalActionNoise(mean, sigma)
    return OrnsteinUhlenbeckActionNoise(mean, sigma, theta=asked["theta"], dt=1.0)


class Clock:
    """Seconds since it was made, of the wall and of the processor."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}


def curve(episodes: Iterable[tuple[float, float, float]], steps: float) -> list[tuple[int, float]]:
    """Mean return of the episodes that ended in each twentieth of the steps.

    Args:
        episodes: steps so far, mean return, number of episodes.
        steps: in all.
    """
    sums = np.zeros((2, BINS))
    for end, mean, count in episodes:
        place = min(BINS - 1, max(0, math.ceil(end / steps * BINS) - 1))
        sums[:, place] += mean * count, count
    return [
        (round(steps * (place + 1) / BINS), round(float(total / count), 2))
        for place, (total, count) in enumerate(sums.T)
        if count
    ]


# evaluation, the same for all


def evaluated(act: Act | None, environment: str) -> list[float]:
    """Returns of the first episodes from fixed starts; None acts at random."""
    import gymnasium

    envs = gymnasium.make_vec(
        ENVIRONMENTS[environment].id, num_envs=EPISODES, vectorization_mode="sync"
    )
    seen, _ = envs.reset(seed=EVALUATION_SEED)
    envs.action_space.seed(EVALUATION_SEED)
    totals, playing = np.zeros(EPISODES), np.ones(EPISODES, dtype=np.bool_)
    while playing.any():
        actions = envs.action_space.sample() if act is None else act(seen)
        seen, rewards, terminated, truncated, _ = envs.step(actions)
        totals += np.where(playing, rewards, 0.0)
        playing &= ~(terminated | truncated)
    envs.close()
    return [round(float(total), 3) for total in totals]


def done(library: str, **asked: Any) -> dict[str, Any]:
    """What a library makes of it."""
    if library == CHANCE:
        result: dict[str, Any] = {"returns": evaluated(None, **asked)}
    else:
        result = {OURS: ours, THEIRS: theirs}[library](**asked)
    returns = result.pop("returns")
    mean, spread = float(np.mean(returns)), float(np.std(returns))
    return {**result, "return": round(mean, 3), "spread": round(spread, 3)}


def main() -> None:
    """Do what each line says, and print what came of it, or the error."""
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            with redirect_stdout(sys.stderr):
                result = done(**json.loads(line))
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
