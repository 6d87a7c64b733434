"""The robot as an environment of gymnasium, for any library: ``polopt/BipedWalk-v0``."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from polopt.envs.control.biped.dynamics import Biped
from polopt.envs.control.biped.model import EPISODE, PHYSICS, PHYSICS_STATE, STEP
from polopt.envs.control.recording.offscreen import draw_without_screen

ID = "polopt/BipedWalk-v0"


class BipedWalk(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One robot; observations and reward: :mod:`polopt.envs.control.biped.dynamics`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / STEP)}  # noqa: RUF012

    def __init__(
        self, preset: str = "toolbox", physics: float = PHYSICS, render_mode: str | None = None
    ) -> None:
        self._dynamics = Biped(preset, physics)
        self._state = np.zeros((1, 0))
        self.render_mode = render_mode
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (31,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._state = self._dynamics.start(self.np_random)[None]
        return self._dynamics.observe(self._state)[0], {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step of 25 ms; never truncated here: gymnasium's wrapper keeps the time limit."""
        self._state, reward, over = self._dynamics.advance(self._state, action[None])
        seen = self._dynamics.observe(self._state)[0]
        return seen, float(reward[0]), bool(over[0]), False, {"distance": float(self._state[0, 1])}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """A picture from the side, [240, 320, 3]; None without ``render_mode``. Needs OpenGL."""
        if self.render_mode is None:
            return None
        mujoco: Any = import_module("mujoco")
        model, data, _ = self._dynamics.simulator
        state = self._state[0, :PHYSICS_STATE]
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_forward(model, data)
        return self.mujoco_renderer.render("rgb_array")

    @cached_property
    def mujoco_renderer(self) -> Any:  # noqa: ANN401
        """The renderer, under the name that it has in environments of gymnasium.

        ``mujoco.Renderer`` chooses its backend when MuJoCo is imported, and aborts the process
        where that backend turns out to need a screen that is not there.
        """
        draw_without_screen()
        rendering: Any = import_module("gymnasium.envs.mujoco.mujoco_rendering")
        model, data, _ = self._dynamics.simulator
        return rendering.MujocoRenderer(model, data, width=320, height=240, camera_name="side")


def register() -> None:
    """Register the environment with gymnasium, unless that is done."""
    if ID not in gymnasium.registry:
        steps = round(EPISODE / STEP)
        gymnasium.register(ID, entry_point=f"{__name__}:BipedWalk", max_episode_steps=steps)
