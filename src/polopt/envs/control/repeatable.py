"""An environment of gymnasium that is saved as the seed and the actions of its episode."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np


class Repeatable(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Remembers the seed and the actions of its episode; repeating them restores its state.

    Relies on what gymnasium asks of every environment: seed and actions determine an episode.
    Made for vectors that begin the next episode in the step after an end (NEXT_STEP).
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._began: int | dict[str, Any] | None = None  # a seed, or the generator before a reset
        self._actions: list[Any] = []
        self._over = False  # the repeated episode has ended; the vector was not told
        self.raised_in: int | None = None  # step of the episode that raised; 0: the reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._began = dict(self._generator.state) if seed is None else seed
        self._actions.clear()
        self._over = False
        with self._noticed():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:  # noqa: ANN401
        """One step; a reset instead where the repeated episode had ended."""
        if self._over:
            seen, info = self.reset()
            return seen, 0.0, False, False, info
        self._actions.append(np.array(action))
        with self._noticed():
            return self.env.step(action)

    def state_dict(self) -> dict[str, Any]:
        """How the episode began and the actions since, exactly."""
        actions = np.array(self._actions, dtype=self.action_space.dtype)
        return {"began": self._began, "actions": actions.tobytes().hex()}

    def repeat(self, state: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Repeat a saved episode; returns its last observation."""
        space, over = self.action_space, False
        actions = np.frombuffer(bytes.fromhex(state["actions"]), dtype=space.dtype)
        if isinstance(state["began"], int):
            seen, _ = self.reset(seed=state["began"])
        else:
            self._generator.state = state["began"]
            seen, _ = self.reset()
        for action in actions.reshape(-1, *(space.shape or ())):
            seen, _, terminated, truncated, _ = self.step(action)
            over = bool(terminated or truncated)
        self._over = over
        return seen

    @contextmanager
    def _noticed(self) -> Generator[None]:
        """Note the step in which this environment raises."""
        try:
            yield
        except BaseException:
            self.raised_in = len(self._actions)
            raise

    @property
    def _generator(self) -> Any:  # noqa: ANN401
        return self.unwrapped.np_random.bit_generator
