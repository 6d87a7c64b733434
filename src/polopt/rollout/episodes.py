"""Episodes of N environments as arrays of observations, actions, rewards and successors."""

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
    """The function that sends a message to the observers of the run."""

    def __call__(self, text: str, *, warning: bool = False) -> None:
        """Send a line; a warning is also written to the run directory."""
        ...


def _silent(text: str, *, warning: bool = False) -> None:
    """Discard the message."""


@dataclass(frozen=True)
class Episode:
    """The return, length and facts of an episode that ended."""

    total: float  # the return: sum of its rewards
    length: int
    cut: bool = False  # truncated by the time limit, not terminated
    facts: Mapping[str, float] = field(default_factory=dict[str, float])  # of the environment


@dataclass(frozen=True)
class Trajectories:
    """T steps in each of N environments; where ``valid`` is False, no step was taken."""

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
    """N environments that start a new episode after each end, with the returns so far.

    Raises:
        RecipeError: an observation or a reward that is not finite.
    """

    def __init__(self, environments: Environments, tell: Tell = _silent) -> None:
        self.environments, self._tell = environments, tell
        self.ended: list[Episode] = []  # since the last :meth:`taken`
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
        """The current observations, [N, O]."""
        assert self._seen is not None, "begun"
        return self._seen

    def begin(self, seed: int) -> None:
        """Reset each environment."""
        self._clear()
        self._seen = self.environments.reset(seed)
        self._check("observation", self._seen)

    def step(
        self, actions: NDArray[Any], counted: NDArray[np.bool_] | None = None
    ) -> tuple[Transition, NDArray[np.bool_]]:
        """One step in each environment, and which are valid and ``counted`` (default: all)."""
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
        """Whether the episode of some environment is still to be finished.

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
        """Refuse values [N, ...] that are not finite; ``ahead``: steps beyond the counted ones."""
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
        """The episodes that ended since the last call."""
        ended = tuple(self.ended)
        self.ended.clear()
        return ended

    def state_dict(self) -> dict[str, Any]:
        """The state of the environments; those without one are reset, here and on resuming."""
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
        """Restore the state of :meth:`state_dict`; reset environments that fail to reproduce it."""
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
        """Set the version, which seeds the actions; the actor shares the weights."""
        self._version = version

    def next_batch(self) -> Trajectories:
        """Collect the next batch in all environments."""
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
        """Whether to go on: until episodes end, or for ``steps`` steps with at least one valid."""
        if self._steps is None:
            return self._playing.still(counted)
        return len(columns) < self._steps or not any(valid.any() for *_, valid in columns)

    def ack(self, batch: Trajectories) -> None:
        """Nothing to do: batches take no slots."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the environments; whole episodes need none, they begin with a reset."""
        return {} if self._steps is None else self._playing.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        self._playing.load_state_dict(state)

    def stats(self) -> Metrics:
        """The seconds of the last batch."""
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
    """The number of steps, and returns and lengths of the episodes that ended in them."""
    metrics: Metrics = {"steps": float(steps), "episodes": float(len(episodes))}
    if episodes:
        metrics["return/mean"] = statistics.fmean(e.total for e in episodes)
        metrics["return/std"] = statistics.pstdev(e.total for e in episodes)
        about = described(episodes)
        metrics |= {f"episode/{name}": value for name, value in about.items()}
    return metrics


def described(episodes: Sequence[Episode]) -> Metrics:
    """Means over episodes: length, share truncated, and facts of the environment."""
    return {
        "length": statistics.fmean(episode.length for episode in episodes),
        "reached_limit": statistics.fmean(episode.cut for episode in episodes),
        **means(episode.facts for episode in episodes),
    }


def played(
    environments: Environments, actor: StepActor, *, seed: int, episodes: int
) -> list[Episode]:
    """The first ``episodes`` episodes by the most likely actions, over the environments in turn."""
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
