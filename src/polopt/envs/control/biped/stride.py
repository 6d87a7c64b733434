"""The stride of a robot on two legs, as columns of its state, and figures of its gait.

Columns, right foot before left: of the swing of each foot its seconds, the greatest height of the
sole, and how far the foot was in front of the other when it was lifted (negative: behind), all kept
in the step in which it lands and 0 while it stands; how far in front of the other it landed (0 in
all other steps); the torques before the last ones; sums over the episode.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.interface import Facts, Flags

Numbers = NDArray[np.float64]

SWING, CLEARANCE, BEGAN, AHEAD = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)
BEFORE = slice(8, 14)
SUMS = slice(14, 22)  # steps, in the air, on one foot; saturated; lifted, landed; ahead, raised
COLUMNS = 22
SATURATED = 0.99  # of the largest torque


def after_step(
    stride: Numbers,
    seconds: float,
    *,
    stood: Flags,
    stands: Flags,
    heights: Numbers,
    places: Numbers,
    before: Numbers,
    torques: Numbers,
) -> Numbers:
    """The columns [N, 22] after one step of control.

    Args:
        stride: [N, 22] the columns before the step.
        seconds: duration of the step.
        stood: [N, 2] whether right and left foot touched the floor before the step.
        stands: [N, 2] whether they touch it after the step.
        heights: [N, 2] of the lowest points of the soles, metres.
        places: [N, 2] x of the feet, metres.
        before: [N, 6] torques of the step before.
        torques: [N, 6] torques of this step.
    """
    after = np.empty_like(stride)
    swing = np.where(stood, 0.0, stride[:, SWING])
    clearance = np.where(stood, 0.0, stride[:, CLEARANCE])
    landed = stands & (swing > 0)
    after[:, SWING] = np.where(stands, swing, swing + seconds)
    after[:, CLEARANCE] = np.where(stands, clearance, np.maximum(clearance, heights))
    ahead = places - places[:, ::-1]
    began = np.where(swing > 0, stride[:, BEGAN], ahead)
    after[:, BEGAN] = np.where(after[:, SWING] > 0, began, 0.0)
    after[:, AHEAD] = np.where(landed, ahead, 0.0)
    after[:, BEFORE] = before
    feet = stands.sum(1)
    sums = [
        np.ones(len(stride)),
        feet == 0,
        feet == 1,
        (np.abs(torques) >= SATURATED).mean(1),
        (stood & ~stands).sum(1),
        landed.sum(1),
        after[:, AHEAD].sum(1),
        (clearance * landed).sum(1),
    ]
    after[:, SUMS] = stride[:, SUMS] + np.stack(sums, 1)
    return after


def gait(stride: Numbers, seconds: float) -> Facts:
    """Figures [N] of the gait in the episode so far, by name; a step takes ``seconds``."""
    steps, flown, single, saturated, lifted, landed, ahead, raised = stride[:, SUMS].T
    landings = np.maximum(landed, 1.0)
    return {
        "in_air": flown / steps,
        "on_one_foot": single / steps,
        "touches_per_s": (lifted + landed) / (steps * seconds),
        "step_m": ahead / landings,
        "lift_m": raised / landings,
        "saturated": saturated / steps,
    }
