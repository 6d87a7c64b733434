"""Episodes of N environments as arrays: what was seen, done, earned, and what followed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.envs.control.interface import Environments, Transition
from polopt.errors import RecipeError
from polopt.roles.control import StepActor
from polopt.rollout.evaluation import means
from polopt.seeding import derive
from polopt.types import Metrics

Numbers = NDArray[np.float32] | NDArray[np.float64]

FIGURES = ("return_mean", "return_std", "length", "reached_limit")  # of episodes played
PATIENCE = 50_000  # steps of an episode whose end is waited for; one of Atari is cut after 27,000


class Tell(Protocol):
    """How whoever watches the run is told something."""

    def __call__(self, text: str, *, warning: bool = False) -> None:
        """A line; a warning stays in the record."""
        ...


def _nobody(text: str, *, warning: bool = False) -> None:
    """Nobody watches."""


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
    anew: bool = False  # no episode was under way before these steps


class Playing:
    """N environments in which one episode follows the other, and what those under way earned.

    Raises:
        RecipeError: an environment that observes or earns something that is not finite.
    """

    def __init__(self, environments: Environments, tell: Tell = _nobody) -> None:
        self.environments, self._tell = environments, tell
        self.ended: list[Episode] = []  # since somebody took them away
        self._seen: NDArray[np.float32] | None = None  # None: episodes have to begin
        self._clear()

    def _clear(self) -> None:
        count = self.environments.count
        self._totals, self._lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
        self.ended.clear()

    @property
    def begun(self) -> bool:
        """Whether episodes are under way."""
        return self._seen is not None

    @property
    def seen(self) -> NDArray[np.float32]:
        """What there is to act on, [N, O]."""
        assert self._seen is not None, "begun"
        return self._seen

    def begin(self, seed: int) -> None:
        """A new episode in each environment."""
        self._clear()
        self._seen = self.environments.reset(seed)
        self._check("observation", self._seen)

    def step(
        self, actions: NDArray[Any], counted: NDArray[np.bool_] | None = None
    ) -> tuple[Transition, NDArray[np.bool_]]:
        """One step in each, and which of them are valid and ``counted`` (default: all)."""
        step = self.environments.step(actions)
        valid = step.valid if counted is None else step.valid & counted
        self._check("observation", step.successors, 1, step.valid)
        self._check("reward", step.rewards, 1, step.valid)
        self._totals += np.where(valid, step.rewards, 0.0)
        self._lengths += valid
        for i in (valid & (step.terminated | step.truncated)).nonzero()[0]:
            facts = {name: float(values[i]) for name, values in step.facts.items()}
            total, length = float(self._totals[i]), int(self._lengths[i])
            self.ended.append(Episode(total, length, not bool(step.terminated[i]), facts))
            self._totals[i], self._lengths[i] = 0.0, 0
        self._check("observation", step.observations)  # where an episode began, its first one
        self._seen = step.observations
        return step, valid

    def still(self, waiting: NDArray[np.bool_]) -> bool:
        """Whether there are environments whose episode has to come to its end.

        Raises:
            RecipeError: one that may never end.
        """
        if (self._lengths[waiting] >= PATIENCE).any():
            raise RecipeError(
                f"data.source: an episode has not ended after {PATIENCE:,} steps; an environment "
                "with a time limit (of gymnasium: data.parameters.max_episode_steps)"
            )
        return bool(waiting.any())

    def _check(
        self, name: str, values: Numbers, ahead: int = 0, valid: NDArray[np.bool_] | None = None
    ) -> None:
        """Refuse [N, ...] that nothing can be learned from, ``ahead`` steps of those counted."""
        if np.isfinite(values).all():
            return
        bad = ~np.isfinite(values.reshape(len(values), -1))
        if valid is not None:
            bad &= valid[:, None]
        for env, number in np.argwhere(bad)[:1]:
            of = f"number {number} of the {name}" if values.ndim > 1 else f"the {name}"
            value = values.reshape(len(values), -1)[env, number]
            step = int(self._lengths[env]) + ahead
            when = f"in step {step} of its episode" if step else "as its episode begins"
            raise RecipeError(
                f"data.source: {of} of environment {env} is {value} {when}; a finite number"
            )

    def taken(self) -> tuple[Episode, ...]:
        """The episodes that ended; they are told of once."""
        ended = tuple(self.ended)
        self.ended.clear()
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Where the environments stand; those that cannot say begin anew, here and on resuming."""
        state = self.environments.state_dict()
        if state is None or self._seen is None:
            self._seen = None
            return {}
        return {
            "environments": state,
            "seen": [[float(x).hex() for x in row] for row in self._seen],
            "totals": [float(x).hex() for x in self._totals],
            "lengths": self._lengths.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave; begin anew where environments fail to repeat it."""
        if not state:
            return
        rows = [[float.fromhex(x) for x in row] for row in state["seen"]]
        seen = self.environments.load_state_dict(state["environments"])
        if not np.array_equal(seen, np.array(rows, dtype=np.float32)):
            self._tell(
                "data.source: the environments do not repeat themselves; their episodes begin "
                "anew, and the run is not the one that it would have been",
                warning=True,
            )
            return
        self._seen = seen
        self._totals = np.array([float.fromhex(x) for x in state["totals"]])
        self._lengths = np.array(state["lengths"], dtype=np.int64)


class EpisodeSource:
    """Batches of consecutive steps, or of one whole episode in each environment."""

    def __init__(
        self,
        playing: Playing,
        actor: StepActor,
        *,
        seed: int,
        steps: int | None,
    ) -> None:
        self._playing, self._actor = playing, actor
        self._seed, self._steps = seed, steps  # None: whole episodes
        self._version = 0
        self._stats: Metrics = {}

    def publish(self, version: int) -> None:
        """The actor shares the weights; actions are drawn by their version."""
        self._version = version

    def next_batch(self) -> Trajectories:
        """Act in all environments."""
        start, playing = time.perf_counter(), self._playing
        generator = torch.Generator().manual_seed(derive(self._seed, "act", self._version))
        anew = not playing.begun or self._steps is None
        if anew:
            playing.begin(derive(self._seed, "reset", self._version) % 2**31)
        columns: list[tuple[Any, ...]] = []
        counted = np.ones(playing.environments.count, dtype=np.bool_)
        while self._goes_on(columns, counted):
            seen = playing.seen
            actions, logp = self._actor.act(seen, generator)
            step, valid = playing.step(self._actor.moved(actions), counted)
            columns.append((seen, actions, logp, step, valid))
            if self._steps is None:
                counted = counted & ~(step.terminated | step.truncated)
        ended = playing.taken()
        self._stats = {"time/rollout": time.perf_counter() - start}
        return replace(_stacked(columns), episodes=ended, taken_at=self._version, anew=anew)

    def _goes_on(self, columns: Sequence[tuple[Any, ...]], counted: NDArray[np.bool_]) -> bool:
        """Until the episodes end, or for as many steps; at least one of them must count."""
        if self._steps is None:
            return self._playing.still(counted)
        return len(columns) < self._steps or not any(valid.any() for *_, valid in columns)

    def ack(self, batch: Trajectories) -> None:
        """Nothing waits."""

    def state_dict(self) -> dict[str, Any]:
        """Where the environments stand; whole episodes always begin anew."""
        return {} if self._steps is None else self._playing.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._playing.load_state_dict(state)

    def stats(self) -> Metrics:
        """Seconds of the last batch."""
        return dict(self._stats)


def _stacked(columns: Sequence[tuple[Any, ...]]) -> Trajectories:
    seen, actions, logp, steps, valid = zip(*columns, strict=True)
    return Trajectories(
        observations=np.stack(seen, 1),
        actions=np.stack(actions, 1),
        logp=np.stack(logp, 1),
        rewards=np.stack([step.rewards for step in steps], 1),
        successors=np.stack([step.successors for step in steps], 1),
        terminated=np.stack([step.terminated for step in steps], 1),
        truncated=np.stack([step.truncated for step in steps], 1),
        valid=np.stack(valid, 1),
    )


def episode_metrics(steps: int, episodes: Sequence[Episode]) -> Metrics:
    """Steps that were taken, and returns and lengths of the episodes that ended in them."""
    metrics: Metrics = {"steps": float(steps), "episodes": float(len(episodes))}
    if episodes:
        metrics["return/mean"] = statistics.fmean(e.total for e in episodes)
        metrics["return/std"] = statistics.pstdev(e.total for e in episodes)
        about = described(episodes)
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
    playing = Playing(environments)
    while len(ended) < episodes:
        playing.begin(seed + len(ended))
        counted = np.ones(environments.count, dtype=np.bool_)
        results: dict[int, Episode] = {}
        while playing.still(counted):
            actions = actor.moved(actor.choose(playing.seen, None))
            step, valid = playing.step(actions, counted)
            over = valid & (step.terminated | step.truncated)
            for i, episode in zip(over.nonzero()[0], playing.taken(), strict=True):
                results[int(i)] = episode
            counted = counted & ~over
        ended.extend(results[i] for i in range(environments.count))
    return ended[:episodes]
