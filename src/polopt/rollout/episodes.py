"""Episodes of N environments as arrays: what was seen, done, earned, and what followed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.envs.control.interface import Environments, Transition
from polopt.errors import RecipeError
from polopt.roles.control import StepActor
from polopt.rollout.evaluation import means
from polopt.seeding import derive
from polopt.types import Metrics


@dataclass(frozen=True)
class Episode:
    """What an episode that ended came to."""

    total: float  # of its rewards
    length: int
    cut: bool = False  # by the time limit, and not over
    facts: Mapping[str, float] = field(default_factory=dict[str, float])  # of the environment


@dataclass(frozen=True)
class Trajectories:
    """T steps in each of N environments; where ``valid`` is False, nothing happened."""

    observations: NDArray[np.float32]  # [N, T, O]
    actions: NDArray[Any]  # [N, T] or [N, T, D], as the policy drew them
    logp: NDArray[np.float32]  # [N, T] of the policy that drew them
    rewards: NDArray[np.float64]  # [N, T]
    successors: NDArray[np.float32]  # [N, T, O] the true next observation
    terminated: NDArray[np.bool_]  # [N, T]
    truncated: NDArray[np.bool_]  # [N, T]
    valid: NDArray[np.bool_]  # [N, T]
    episodes: Sequence[Episode] = ()  # that ended in these steps
    taken_at: int = 0  # policy version


@dataclass
class _Running:
    """The episodes that are under way."""

    totals: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ended: list[Episode] = field(default_factory=list[Episode])

    def count(self, step: Transition) -> None:
        self.totals += np.where(step.valid, step.rewards, 0.0)
        self.lengths += step.valid
        for i in (step.valid & (step.terminated | step.truncated)).nonzero()[0]:
            facts = {name: float(values[i]) for name, values in step.facts.items()}
            total, length = float(self.totals[i]), int(self.lengths[i])
            self.ended.append(Episode(total, length, not bool(step.terminated[i]), facts))
            self.totals[i], self.lengths[i] = 0.0, 0


class EpisodeSource:
    """Batches of consecutive steps, or of one whole episode in each environment.

    Raises:
        RecipeError: an environment that observes or earns something that is not finite.
    """

    def __init__(
        self, environments: Environments, actor: StepActor, *, seed: int, steps: int | None
    ) -> None:
        self._environments, self._actor = environments, actor
        self._seed, self._steps = seed, steps  # None: whole episodes
        self._version = 0
        self._seen: NDArray[np.float32] | None = None  # None: episodes have to begin
        self._running = self._fresh()
        self._stats: Metrics = {}

    def _fresh(self) -> _Running:
        count = self._environments.count
        return _Running(np.zeros(count), np.zeros(count, dtype=np.int64))

    def publish(self, version: int) -> None:
        """The actor shares the weights; actions are drawn by their version."""
        self._version = version

    def next_batch(self) -> Trajectories:
        """Act in all environments."""
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(derive(self._seed, "act", self._version))
        if self._seen is None or self._steps is None:
            seed = derive(self._seed, "reset", self._version) % 2**31
            self._seen = self._environments.reset(seed)
            self._running = self._fresh()
        columns: list[tuple[Any, ...]] = []
        playing = np.ones(self._environments.count, dtype=np.bool_)
        while playing.any() and (self._steps is None or len(columns) < self._steps):
            actions, logp = self._actor.act(self._seen, generator)
            step = self._environments.step(self._actor.moved(actions))
            valid = step.valid & playing
            columns.append((self._seen, actions, logp, step, valid))
            self._running.count(replace(step, valid=valid))
            if self._steps is None:
                playing = playing & ~(step.terminated | step.truncated)
            self._seen = step.observations
        ended, self._running.ended = tuple(self._running.ended), []
        self._stats = {"time/rollout": time.perf_counter() - start}
        return _stacked(columns, ended, self._version)

    def ack(self, batch: Trajectories) -> None:
        """Nothing waits."""

    def state_dict(self) -> dict[str, Any]:
        """Where the environments stand; those that cannot say begin anew, here and on resuming."""
        state = None if self._steps is None else self._environments.state_dict()
        if state is None or self._seen is None:
            self._seen = None
            return {}
        return {
            "environments": state,
            "seen": [[float(x).hex() for x in row] for row in self._seen],
            "totals": [float(x).hex() for x in self._running.totals],
            "lengths": self._running.lengths.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        if not state:
            return
        self._environments.load_state_dict(state["environments"])
        rows = [[float.fromhex(x) for x in row] for row in state["seen"]]
        self._seen = np.array(rows, dtype=np.float32)
        totals = np.array([float.fromhex(x) for x in state["totals"]])
        self._running = _Running(totals, np.array(state["lengths"], dtype=np.int64))

    def stats(self) -> Metrics:
        """Seconds of the last batch."""
        return dict(self._stats)


def _stacked(
    columns: Sequence[tuple[Any, ...]], ended: Sequence[Episode], version: int
) -> Trajectories:
    seen, actions, logp, steps, valid = zip(*columns, strict=True)
    made = Trajectories(
        observations=np.stack(seen, 1),
        actions=np.stack(actions, 1),
        logp=np.stack(logp, 1),
        rewards=np.stack([step.rewards for step in steps], 1),
        successors=np.stack([step.successors for step in steps], 1),
        terminated=np.stack([step.terminated for step in steps], 1),
        truncated=np.stack([step.truncated for step in steps], 1),
        valid=np.stack(valid, 1),
        episodes=ended,
        taken_at=version,
    )
    for name, values in (("observation", made.successors), ("reward", made.rewards)):
        finite = np.isfinite(values).reshape(*made.valid.shape, -1).all(-1) | ~made.valid
        if not finite.all():
            env, t = np.argwhere(~finite)[0]
            raise RecipeError(
                f"data.source: the {name} of environment {env} at step {t} of the batch is "
                f"{values[env, t]}; finite numbers"
            )
    return made


def episode_metrics(batch: Trajectories) -> Metrics:
    """Returns and lengths of the episodes that ended, and steps that were taken."""
    metrics: Metrics = {"steps": float(batch.valid.sum()), "episodes": float(len(batch.episodes))}
    if batch.episodes:
        metrics["return/mean"] = statistics.fmean(e.total for e in batch.episodes)
        metrics["return/std"] = statistics.pstdev(e.total for e in batch.episodes)
        about = described(batch.episodes)
        metrics |= {f"episode/{name}": value for name, value in about.items()}
    return metrics


def described(episodes: Sequence[Episode]) -> Metrics:
    """Means over episodes: of length, of being cut, and of what the environment says."""
    return {
        "length": statistics.fmean(episode.length for episode in episodes),
        "reached_limit": statistics.fmean(episode.cut for episode in episodes),
        **means(episode.facts for episode in episodes),
    }


def played(
    environments: Environments, actor: StepActor, *, seed: int, episodes: int
) -> list[Episode]:
    """The first ``episodes`` episodes, in each environment in turn, by the likeliest actions."""
    ended: list[Episode] = []
    while len(ended) < episodes:
        seen = environments.reset(seed + len(ended))
        running = _Running(np.zeros(environments.count), np.zeros(environments.count, np.int64))
        playing = np.ones(environments.count, dtype=np.bool_)
        results: dict[int, Episode] = {}
        while playing.any():
            actions, _ = actor.act(seen, None)
            step = environments.step(actor.moved(actions))
            running.count(replace(step, valid=step.valid & playing))
            over = playing & step.valid & (step.terminated | step.truncated)
            for i, episode in zip(over.nonzero()[0], running.ended, strict=True):
                results[int(i)] = episode
            running.ended.clear()
            playing = playing & ~over
            seen = step.observations
        ended.extend(results[i] for i in range(environments.count))
    return ended[:episodes]
