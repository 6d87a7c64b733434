"""The dynamics of a robot that walks: two legs, six torques, 31 observations.

The task of MathWorks' walking robot (github.com/mathworks-robotics/msra-walking-robot, 2-D model:
observations, initial states, termination; "Train Biped Robot to Walk Using Reinforcement Learning
Agents": reward) on a MuJoCo model of our own. A step is 25 ms, ten steps of physics; an episode is
10 s.

Observation: y, (z - z₀)/0.05, v_x, v_y, v_z, yaw, pitch, roll, ω_x, ω_y, ω_z; angle and speed of
right ankle, knee, hip and of left ankle, knee, hip; contact of right and left foot; the action
before. Angular velocity in axes of the body, all else in those of the world; SI units, radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.envs.control.arrays import States, check_limit
from polopt.envs.control.biped import stride
from polopt.envs.control.biped.drawing import seen
from polopt.envs.control.biped.model import (
    BALL,
    EPISODE,
    HEIGHT,
    LOWEST,
    NQ,
    NV,
    PHYSICS,
    PHYSICS_STATE,
    QPOS,
    QVEL,
    STEEPEST,
    STEP,
    WIDEST,
    angles,
    leg,
    xml,
)
from polopt.envs.control.biped.reward import (
    BIPED_PRESETS,
    GAIT_PRESETS,
    biped_terms,
    gait_terms,
)
from polopt.envs.control.interface import Box, Facts, Flags
from polopt.envs.control.recording.view import View
from polopt.errors import RecipeError, missing_extra

STRIDE = slice(PHYSICS_STATE, PHYSICS_STATE + stride.COLUMNS)  # in a state


def _torques() -> Box:
    return Box(-np.ones(6, dtype=np.float32), np.ones(6, dtype=np.float32))


@dataclass(frozen=True)
class Biped:
    """The dynamics of N robots.

    State: physics (time, 13 positions, 12 velocities), its stride, the action before (6), contacts
    (2).
    """

    preset: str = "toolbox"  # of the reward
    physics: float = PHYSICS  # seconds; a shorter step shows if a gait exploits the simulator
    max_episode_steps: int = round(EPISODE / STEP)
    observation_size: int = field(default=31, init=False)
    action: Box = field(default_factory=_torques, init=False)
    seconds: float = field(default=STEP, init=False)

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            RecipeError: an unknown preset, a wrong time limit, or a step of physics that does not
                divide the step of control.
            MissingExtraError: MuJoCo is not installed.
        """
        if self.preset not in BIPED_PRESETS:
            known = ", ".join(BIPED_PRESETS)
            raise RecipeError(f"data.parameters.preset: {self.preset!r} is not allowed; {known}")
        check_limit(self.max_episode_steps)
        steps = _steps_of(self.physics)
        if steps < 1 or abs(steps - round(steps)) > 1e-6:
            raise RecipeError(
                f"data.parameters.physics: {self.physics!r} is not allowed; {STEP} s or a whole "
                f"part of it, such as {PHYSICS}"
            )
        _ = self.simulator  # a missing MuJoCo is reported now, not in the first step

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """An initial state: standing still, or with probability ½ in a random posture.

        Random: the left foot up to ±5 cm in front of its place, the right one as far behind, and
        with probability ½ a velocity of up to ±0.05 m/s along x and ±0.025 m/s along y.
        """
        speed, ahead = np.zeros(2), 0.0
        if generator.random() < 0.5:
            if generator.random() < 0.5:
                speed = generator.uniform([-0.05, -0.025], [0.05, 0.025])
            ahead = float(generator.uniform(-0.05, 0.05))
        qpos, qvel = np.zeros(NQ), np.zeros(NV)
        qpos[2], qpos[3] = HEIGHT, 1.0
        qpos[7:10], qpos[10:13] = leg(-ahead), leg(ahead)  # hip, knee, ankle; right, left
        qvel[:2] = speed
        return np.concatenate([[0.0], qpos, qvel, np.zeros(stride.COLUMNS + 6 + 2)])

    def observe(self, states: States) -> NDArray[np.float32]:
        """The 31 numbers of each observation."""
        qpos, qvel = states[:, QPOS : QPOS + NQ], states[:, QVEL : QVEL + NV]
        yaw, pitch, roll = angles(qpos[:, 3:7])
        legs = [
            part[:, start + 2 - joint]  # a leg is hip, knee, ankle in the state
            for start in (0, 3)
            for joint in range(3)
            for part in (qpos[:, 7:], qvel[:, 6:])
        ]
        action, contacts = states[:, -8:-2], states[:, -2:]
        height = (qpos[:, 2] - HEIGHT) / 0.05
        body = [qpos[:, 1], height, *qvel[:, :3].T, yaw, pitch, roll, *qvel[:, 3:6].T]
        return np.stack([*body, *legs, *contacts.T, *action.T], 1).astype(np.float32)

    def advance(
        self, states: States, actions: NDArray[Any]
    ) -> tuple[States, NDArray[np.float64], Flags]:
        """States, rewards [N] and ends of episodes [N] after 25 ms of constant torques [N, 6]."""
        actions = np.clip(actions.astype(np.float64), -1.0, 1.0)
        model, data, rollout = self.simulator
        physics, sensors = rollout.rollout(
            model,
            data,
            np.ascontiguousarray(states[:, :PHYSICS_STATE]),
            actions[:, None],
            nstep=round(STEP / self.physics),
        )
        contacts = sensors[:, -1, :2] > 0
        balls = sensors[:, -1, 2:].reshape(-1, 2, 4, 3)
        strides = stride.after_step(
            states[:, STRIDE],
            STEP,
            stood=states[:, -2:] > 0,
            stands=contacts,
            heights=balls[..., 2].min(-1) - BALL,
            places=balls[..., 0].mean(-1),
            before=states[:, -8:-2],
            torques=actions,
        )
        after = np.concatenate([physics[:, -1], strides, actions, contacts], 1)
        return after, self.reward(after), self.over(after)

    def facts(self, states: States) -> Facts:
        """The distance walked, and figures of the gait."""
        return {"distance_m": states[:, QPOS], **stride.gait(states[:, STRIDE], STEP)}

    def over(self, states: States) -> Flags:
        """Whether the robot has fallen, is over 1 m off its line, or turned by 45° or more, [N]."""
        qpos = states[:, QPOS : QPOS + NQ]
        turned = np.abs(np.stack(angles(qpos[:, 3:7]))).max(0) >= STEEPEST
        return (qpos[:, 2] <= LOWEST) | (np.abs(qpos[:, 1]) > WIDEST) | turned

    def reward(self, states: States) -> NDArray[np.float64]:
        """``v_x - c_y y² - c_z (z - z₀)² + 25 Ts/Tf - c_u Σ u²`` of the states after a step, [N].

        The preset ``walk`` adds the terms of :func:`gait_terms`.
        """
        return sum(self._terms(states).values(), np.zeros(len(states)))

    def terms(self, states: States, actions: NDArray[Any]) -> Mapping[str, NDArray[np.float64]]:
        """The terms of the reward; the states hold the actions that led to them."""
        return self._terms(states[1:])

    def _terms(self, states: States) -> dict[str, NDArray[np.float64]]:
        one = torch.from_numpy(np.ascontiguousarray(states))
        qpos, qvel = one[:, QPOS : QPOS + NQ], one[:, QVEL : QVEL + NV]
        terms = biped_terms(
            qvel[:, 0],
            qpos[:, 1],
            qpos[:, 2] - HEIGHT,
            one[:, -8:-2],
            STEP,
            EPISODE,
            **BIPED_PRESETS[self.preset],
        )
        if self.preset in GAIT_PRESETS:
            columns = one[:, STRIDE]
            terms |= gait_terms(
                qvel[:, 0],
                one[:, -2:] > 0,
                columns[:, stride.SWING],
                columns[:, stride.CLEARANCE],
                columns[:, stride.BEGAN],
                columns[:, stride.AHEAD],
                one[:, -8:-2],
                columns[:, stride.BEFORE],
                **GAIT_PRESETS[self.preset],
            )
        return {name: term.numpy() for name, term in terms.items()}

    def view(self, states: States, actions: NDArray[Any]) -> View:
        """Torso, legs and feet from the side, and how they move."""
        return seen(states)

    @cached_property
    def simulator(self) -> tuple[Any, Any, Any]:
        """Model, scratch data and MuJoCo's loop over environments."""
        try:
            mujoco: Any = import_module("mujoco")
            rollout: Any = import_module("mujoco.rollout")
        except ImportError as error:
            raise missing_extra("data.source: 'biped'", "mujoco", "control", error) from error
        model = mujoco.MjModel.from_xml_string(xml())
        model.opt.timestep = self.physics
        return model, mujoco.MjData(model), rollout


def _steps_of(physics: object) -> float:
    """Steps of physics in a step of control; 0 where ``physics`` is no length of time."""
    return STEP / physics if isinstance(physics, int | float) and physics > 0 else 0.0
