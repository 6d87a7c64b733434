"""CartPole: a pole on a cart, pushed to the left or to the right.

Barto, Sutton & Anderson 1983; constants, Euler steps and limits of gymnasium's CartPole-v1, whose
trajectories these are. State and observation: x, ẋ, θ, θ̇. A reward of 1 for every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.arrays import States
from polopt.envs.control.interface import Discrete, Facts, Flags

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
PUSHES = Discrete(2)
MASS, MOMENT = CART + POLE, POLE * HALF_LENGTH
FARTHEST, STEEPEST = 2.4, 12 * 2 * np.pi / 360


@dataclass(frozen=True)
class CartPole:
    """The dynamics of N of them."""

    observation_size: int = 4
    action: Discrete = PUSHES
    limit: int = 500

    def start(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """All four near 0."""
        return generator.uniform(-0.05, 0.05, size=(4,))

    def observe(self, states: States) -> NDArray[np.float32]:
        """The state in single precision."""
        return states.astype(np.float32)

    def advance(
        self, states: States, actions: NDArray[Any]
    ) -> tuple[States, NDArray[np.float64], Flags]:
        """One push; over where the cart leaves the track or the pole leans over 12 degrees."""
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
        """Its rewards say it all."""
        return {}
