"""Off-policy experience: environment steps into a replay buffer, batches drawn from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polopt.roles.control import StepActor
from polopt.rollout.episodes import Playing, episode_metrics
from polopt.rollout.exploration import Explorer
from polopt.rollout.replay import Replay
from polopt.seeding import derive
from polopt.types import Metrics, Transitions

ROUNDING = 1e-9  # tolerance of the number of optimiser steps that are due


@dataclass(frozen=True)
class ReplaySchedule:
    """The ratio of environment steps to optimiser steps, counted per environment."""

    batch_size: int  # steps drawn for one optimiser step
    start_steps: int  # taken at random, before the first optimiser step
    updates_per_step: float  # optimiser steps for each step after them


class StepwiseSource:
    """Each batch is drawn for one optimiser step, once enough steps were taken and stored for it.

    Before k optimiser steps there were at least ``start_steps + k / updates_per_step`` steps in
    environments, and never as many as a further one of them all would add. Random numbers are a
    function of the version, so that a run resumes bit for bit.
    """

    def __init__(
        self,
        playing: Playing,
        actor: StepActor,
        explorer: Explorer,
        replay: Replay,
        schedule: ReplaySchedule,
        *,
        seed: int,
    ) -> None:
        self._playing, self._actor, self._explorer = playing, actor, explorer
        self._replay, self._schedule, self._seed = replay, schedule, seed
        self._steps, self._updates = 0, 0
        self._reported, self._seconds = 0, 0.0
        self.publish(0)

    def publish(self, version: int) -> None:
        """Begin the random numbers of a new version."""
        self._version = version
        self._acting = torch.Generator().manual_seed(derive(self._seed, "act", version))
        self._drawing = np.random.default_rng(derive(self._seed, "draw", version))

    def next_batch(self) -> Transitions:
        """Act until an optimiser step is due, then draw for it."""
        start = time.perf_counter()
        while not self._due():
            self._act()
        self._updates += 1
        batch = self._replay.draw(self._schedule.batch_size, self._drawing)
        self._seconds += time.perf_counter() - start
        return batch

    def _due(self) -> bool:
        counted = self._steps - self._schedule.start_steps
        return counted * self._schedule.updates_per_step + ROUNDING >= self._updates + 1

    def _act(self) -> None:
        """One step in every environment."""
        playing = self._playing
        if not playing.begun:
            playing.begin(derive(self._seed, "reset", self._version) % 2**31)
            self._explorer.forget(np.ones(playing.environments.count, dtype=np.bool_))
        seen = playing.seen
        actions = self._explorer.act(seen, self._acting)
        if self._steps < self._schedule.start_steps:
            actions = torch.rand(actions.shape, generator=self._acting).numpy() * 2 - 1
        step, valid = playing.step(self._actor.moved(actions))
        self._replay.add(seen, actions, step, valid)
        self._steps += int(valid.sum())
        # A step that only began an episode drew noise, too; it is reset as well.
        if (over := step.terminated | step.truncated | ~step.valid).any():
            self._explorer.forget(over)

    def ack(self, batch: Transitions) -> None:
        """Nothing to do: batches take no slots."""

    def state_dict(self) -> dict[str, Any]:
        """Counts, environments and noise; the buffer is saved as a learner of the stage."""
        return {
            "steps": self._steps,
            "updates": self._updates,
            "playing": self._playing.state_dict(),
            "explorer": self._explorer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        self._steps = self._reported = state["steps"]
        self._updates = state["updates"]
        self._playing.load_state_dict(state["playing"])
        self._explorer.load_state_dict(state["explorer"])

    def stats(self) -> Metrics:
        """Steps, episodes and seconds since the last call."""
        figures = episode_metrics(self._steps - self._reported, self._playing.taken())
        figures["replay/size"] = float(self._replay.filled)
        figures["time/rollout"] = self._seconds
        self._reported, self._seconds = self._steps, 0.0
        return figures
