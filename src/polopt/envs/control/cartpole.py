"""CartPole: a pole on a cart, pushed to the left or to the right.

Barto, Sutton & Anderson 1983; constants, Euler steps, limits and trajectories are those of
gymnasium's CartPole-v1. State and observation: x, ẋ, θ, θ̇. A reward of 1 for every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.arrays import States, check_limit
from polopt.envs.control.interface import Discrete, Facts, Flags
from polopt.envs.control.recording.view import Panel, Shape, View

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
PUSHES = Discrete(2)
MASS, MOMENT = CART + POLE, POLE * HALF_LENGTH
FARTHEST, STEEPEST = 2.4, 12 * 2 * np.pi / 360
SMOOTHED = 10  # steps over which a recording averages pushes, which alternate


@dataclass(frozen=True)
class CartPole:
    """The dynamics of N carts with poles."""

    max_episode_steps: int = 500
    observation_size: int = field(default=4, init=False)
    action: Discrete = field(default=PUSHES, init=False)
    seconds: float = field(default=TAU, init=False)

    def __post_init__(self) -> None:
        """Refuse a time limit that is no positive integer."""
        check_limit(self.max_episode_steps)

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """An initial state: all four numbers within ±0.05."""
        return generator.uniform(-0.05, 0.05, size=(4,))

    def observe(self, states: States) -> NDArray[np.float32]:
        """The state in single precision."""
        return states.astype(np.float32)

    def advance(
        self, states: States, actions: NDArray[Any]
    ) -> tuple[States, NDArray[np.float64], Flags]:
        """States, rewards [N] and ends of episodes [N] after a push to the left (0) or right (1).

        An episode ends where the cart leaves the track or the pole leans by over 12 degrees.
        """
        x, speed, angle, turn = states.T
        force = np.where(actions == 1, FORCE, -FORCE)
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + MOMENT * np.square(turn) * sin) / MASS
        bend = (GRAVITY * sin - cos * push) / (
            HALF_LENGTH * (4.0 / 3.0 - POLE * np.square(cos) / MASS)
        )
        accelerate = push - MOMENT * bend * cos / MASS
        after = np.stack(
            [x + TAU * speed, speed + TAU * accelerate, angle + TAU * turn, turn + TAU * bend], 1
        )
        over = (np.abs(after[:, 0]) > FARTHEST) | (np.abs(after[:, 2]) > STEEPEST)
        return after, np.ones(len(after)), over

    def facts(self, states: States) -> Facts:
        """No figures beside the return."""
        return {}

    def view(self, states: States, actions: NDArray[Any]) -> View:
        """Cart, pole and track; pushes as their mean over the last fifth of a second."""
        x, _, angle, _ = states.T
        axle = np.stack([x, np.full_like(x, 0.2)], 1)
        tip = axle + 2 * HALF_LENGTH * np.stack([np.sin(angle), np.cos(angle)], 1)
        each = np.where(actions == 1, 1.0, -1.0)
        push = np.convolve(each, np.ones(SMOOTHED) / SMOOTHED)[: len(each)]
        ends = {
            f"{side}_{end}": np.array([sign * FARTHEST, height])
            for side, sign in (("left", -1), ("right", 1))
            for end, height in (("foot", 0.0), ("head", 0.14))
        }
        return View(
            window=(-2.7, 2.7, -0.25, 1.35),
            shapes=(
                Shape("line", ("left_foot", "right_foot"), "faint", 0.025),
                Shape("line", ("left_head", "left_foot"), "faint", 0.05),
                Shape("line", ("right_head", "right_foot"), "faint", 0.05),
                Shape("disc", ("back_wheel",), "body", 0.06),
                Shape("disc", ("front_wheel",), "body", 0.06),
                Shape("line", ("back", "front"), "body", 0.16),
                Shape("arrow", ("axle",), "force", 0.7, "push"),
                Shape("line", ("axle", "tip"), "first", 0.07),
                Shape("disc", ("axle",), "hollow", 0.025),
            ),
            points={
                **ends,
                "axle": axle,
                "tip": tip,
                "back": axle + np.array([-0.16, -0.03]),
                "front": axle + np.array([0.16, -0.03]),
                "back_wheel": axle + np.array([-0.14, -0.14]),
                "front_wheel": axle + np.array([0.14, -0.14]),
            },
            amounts={"push": push},
            panels=(
                Panel(
                    "Position of the cart",
                    "m",
                    {"from the middle": x},
                    f"Over {FARTHEST} m to either side the episode is over.",
                ),
                Panel(
                    "Angle of the pole",
                    "°",
                    {"from upright": np.degrees(angle)},
                    "Beyond 12° to either side the episode is over.",
                ),
                Panel(
                    "Mean push",
                    "N",
                    {"to the right": FORCE * push},
                    f"Mean of the last fifth of a second: {SMOOTHED} pushes, each of "
                    f"{FORCE:g}\u202fN to one side; to both sides in turn they cancel.",
                ),
            ),
        )
