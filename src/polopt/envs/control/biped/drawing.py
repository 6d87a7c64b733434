"""The robot from the side: where its joints are, and the series that make a gait."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.biped.model import JOINTS, LEG, MOTORS, NQ, QPOS, QVEL
from polopt.envs.control.recording.view import Floats, Panel, Shape, Tone, View

SIDES: Mapping[str, Tone] = {"right": "first", "left": "second"}
HIPS = {"right": (-0.01, -0.04, -0.02), "left": (-0.01, 0.04, -0.02)}  # in axes of the torso
TORSO = {"rear_low": (-1, -1), "rear_high": (-1, 1), "front_high": (1, 1), "front_low": (1, -1)}
WIDE, HIGH, ROUND = 0.025, 0.04, 0.006  # of the torso; of its corners
HEEL, TOE, SOLE = -0.013, 0.033, -0.006  # from the ankle, in axes of the foot
TORQUE = 3.0  # N m at an action of 1
GAIT = (
    "When each foot is on the floor, and for what share of the episode. In a walk the feet take "
    "turns and overlap; in a run or a hop there are gaps in which neither stands."
)


def seen(states: NDArray[np.float64]) -> View:
    """The view of an episode through ``states`` [F, S]; one looks along y, the right leg nearer."""
    contacts = dict(zip(SIDES, states[:, -2:].T, strict=True))
    return View(
        window=(-0.3, 0.3, -0.045, 0.29),
        shapes=(
            *_leg("left"),
            Shape("area", tuple(TORSO), "body", 2 * ROUND),
            *_leg("right"),
        ),
        points=_points(states),
        amounts={f"{side}_contact": on for side, on in contacts.items()},
        panels=_panels(states, contacts),
        follows="middle",
        ground=True,
    )


def _leg(side: str) -> tuple[Shape, ...]:
    """Thigh, shank, foot, and a bar on the floor while the foot is in contact with it."""
    hip, knee, ankle, heel, toe, behind, before = (
        f"{side}_{name}" for name in ("hip", "knee", "ankle", "heel", "toe", "behind", "before")
    )
    tone = SIDES[side]
    return (
        Shape("area", (heel, ankle, toe), tone, 0.008),
        Shape("line", (hip, knee, ankle), tone, 0.016),
        Shape("disc", (hip,), "hollow", 0.004),
        Shape("disc", (knee,), "hollow", 0.004),
        Shape("disc", (ankle,), "hollow", 0.004),
        Shape("line", (behind, before), tone, 0.007, f"{side}_contact"),
    )


def _points(states: NDArray[np.float64]) -> dict[str, Floats]:
    """Places [F, 2] of everything that is drawn, by the kinematics of the model."""
    place, turned = states[:, QPOS : QPOS + 3], _turned(states[:, QPOS + 3 : QPOS + 7])

    def world(x: Floats, y: Floats, z: Floats) -> NDArray[np.float64]:
        at = np.stack(np.broadcast_arrays(x, y, z, np.zeros(len(states)))[:3], 1)
        return (place + np.einsum("fij,fj->fi", turned, at))[:, [0, 2]]

    points: dict[str, Floats] = {
        name: world(np.array(x * (WIDE - ROUND)), np.zeros(1), np.array(z * (HIGH - ROUND)))
        for name, (x, z) in TORSO.items()
    }
    points["middle"] = place[:, [0, 2]]
    for index, (side, (x, y, z)) in enumerate(HIPS.items()):
        start = QPOS + 7 + 3 * index
        bends = np.cumsum(states[:, start : start + 3], 1).T  # of thigh, shank and foot
        off, low, across = np.full(len(states), x), np.full(len(states), z), np.full(len(states), y)
        points[f"{side}_hip"] = world(off, across, low)
        for joint, bend in zip(("knee", "ankle"), bends, strict=False):
            off, low = off - LEG * np.sin(bend), low - LEG * np.cos(bend)
            points[f"{side}_{joint}"] = world(off, across, low)
        cos, sin = np.cos(bends[2]), np.sin(bends[2])
        for end, ahead in (("heel", HEEL), ("toe", TOE)):
            points[f"{side}_{end}"] = world(
                off + cos * ahead + sin * SOLE, across, low - sin * ahead + cos * SOLE
            )
        for mark, end in (("behind", "heel"), ("before", "toe")):
            floor = points[f"{side}_{end}"].copy()
            floor[:, 1] = -0.012
            points[f"{side}_{mark}"] = floor
    return points


def _turned(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices [F, 3, 3] of unit quaternions [F, 4] with the real part first."""
    w, x, y, z = quaternion.T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, 1) for row in rows], 1)


def _panels(states: NDArray[np.float64], contacts: Mapping[str, Floats]) -> tuple[Panel, ...]:
    """Contacts, angles and torques of the joints, speed and height."""
    joints = states[:, QPOS + 7 : QPOS + NQ]  # hip, knee, ankle of the right leg, of the left
    torques = TORQUE * states[1:, -8:-2]  # a state holds the action before it; in motor order
    places = {
        f"{side}_{joint}": 3 * i + 2 - k
        for i, side in enumerate(SIDES)
        for k, joint in enumerate(JOINTS)
    }
    upwards = JOINTS[::-1]
    return (
        Panel("Foot contacts", "", contacts, GAIT, bars=True),
        *(
            Panel(
                f"Angle of the {joint}",
                "°",
                {side: np.degrees(joints[:, places[f"{side}_{joint}"]]) for side in SIDES},
            )
            for joint in upwards
        ),
        *(
            Panel(
                f"Torque of the {joint}",
                "N m",
                {side: torques[:, MOTORS.index(f"{side}_{joint}")] for side in SIDES},
            )
            for joint in upwards
        ),
        Panel("Speed", "m/s", {"forward": states[:, QVEL]}),
        Panel("Height of the torso", "m", {"of its middle": states[:, QPOS + 2]}),
    )
