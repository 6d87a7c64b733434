"""Pendulum: swing a pole up and hold it there, by a torque that is too weak to lift it at once.

Constants, integration, limit and trajectories are those of gymnasium's Pendulum-v1. State: θ (0 is
up) and θ̇; observation: cos θ, sin θ, θ̇. Episodes end by the time limit alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.arrays import States, check_limit
from polopt.envs.control.interface import Box, Facts, Flags
from polopt.envs.control.recording.view import Panel, Shape, View

GRAVITY, TAU, FASTEST, STRONGEST = 10.0, 0.05, 8.0, 2.0


def _torque() -> Box:
    bound = np.array([STRONGEST], dtype=np.float32)
    return Box(-bound, bound)


@dataclass(frozen=True)
class Pendulum:
    """The dynamics of N pendulums, of mass and length 1."""

    max_episode_steps: int = 200
    observation_size: int = field(default=3, init=False)
    action: Box = field(default_factory=_torque, init=False)
    seconds: float = field(default=TAU, init=False)

    def __post_init__(self) -> None:
        """Refuse a time limit that is no positive integer."""
        check_limit(self.max_episode_steps)

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """An initial state: any angle, a speed within ±1."""
        high = np.array([np.pi, 1.0])
        return generator.uniform(low=-high, high=high)

    def observe(self, states: States) -> NDArray[np.float32]:
        """Angle as a point on the circle, and speed."""
        angle, speed = states.T
        return np.stack([np.cos(angle), np.sin(angle), speed], 1).astype(np.float32)

    def advance(
        self, states: States, actions: NDArray[Any]
    ) -> tuple[States, NDArray[np.float64], Flags]:
        """States, rewards [N] and no ends of episodes after a step of torques [N, 1].

        ``r = -(θ² + 0.1 θ̇² + 0.001 u²)`` of the state before the step, θ in [-π, π).
        """
        angle, speed = states.T
        torque = np.clip(actions[:, 0], -STRONGEST, STRONGEST)
        reward = -(_lean(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2)
        faster = speed + (3 * GRAVITY / 2 * np.sin(angle) + 3.0 * torque) * TAU
        faster = np.clip(faster, -FASTEST, FASTEST)
        after = np.stack([angle + faster * TAU, faster], 1)
        return after, reward, np.zeros(len(after), dtype=np.bool_)

    def facts(self, states: States) -> Facts:
        """No figures beside the return."""
        return {}

    def terms(self, states: States, actions: NDArray[Any]) -> Mapping[str, NDArray[np.float64]]:
        """The terms of the reward: the costs of angle, speed and torque."""
        angle, speed = states[:-1].T
        torque = np.clip(actions[:, 0], -STRONGEST, STRONGEST)
        costs = {"angle": _lean(angle) ** 2, "speed": 0.1 * speed**2, "torque": 0.001 * torque**2}
        return {name: -cost for name, cost in costs.items()}

    def view(self, states: States, actions: NDArray[Any]) -> View:
        """The arm, and an arc as long as the torque is strong."""
        angle, speed = states.T
        torque = np.clip(actions[:, 0], -STRONGEST, STRONGEST)
        return View(
            window=(-1.25, 1.25, -1.25, 1.25),
            shapes=(
                Shape("disc", ("pivot",), "faint", 0.13),
                Shape("line", ("pivot", "tip"), "first", 0.16),
                Shape("disc", ("pivot",), "hollow", 0.035),
                Shape("arc", ("pivot",), "force", 0.42, "torque"),
            ),
            points={
                "pivot": np.zeros(2),
                "tip": np.stack([-np.sin(angle), np.cos(angle)], 1),
            },
            amounts={"torque": torque / STRONGEST},
            panels=(
                Panel(
                    "Angle",
                    "°",
                    {"from upright": np.degrees(_lean(angle))},
                    "0 is upright, 180 hangs down.",
                ),
                Panel("Speed", "rad/s", {"of the arm": speed}),
                Panel(
                    "Torque",
                    "N m",
                    {"of the motor": torque},
                    f"At most {STRONGEST:g}: too weak to lift the arm at once.",
                ),
            ),
        )


def _lean(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same angle in [-π, π)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
