"""The MuJoCo model of the robot: its sizes, the layout of a state, its kinematics."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

STEP, EPISODE, PHYSICS = 0.025, 10.0, 0.0025  # seconds
HEIGHT, HIP, LEG = 0.210125, 0.18, 0.1  # of the torso, of hip over ankle, of half a leg; metres
LOWEST, WIDEST, STEEPEST = 0.1, 1.0, np.pi / 4  # z, |y| and the angles that end an episode
JOINTS = ("ankle", "knee", "hip")  # of the right leg, then of the left
QPOS, QVEL, NQ, NV = 1, 14, 13, 12  # offsets and sizes in a physics state; the time is first
PHYSICS_STATE = QVEL + NV
BALL = 0.005  # radius of the contact spheres, four under each foot; metres
MOTORS = [f"{side}_{joint}" for side in ("right", "left") for joint in JOINTS]


def xml() -> str:
    """The text of the model in MuJoCo's format."""
    return (files("polopt.envs.control.biped") / "biped.xml").read_text(encoding="utf-8")


def leg(ahead: float) -> tuple[float, float, float]:
    """Angles of hip, knee and ankle that put a foot ``ahead`` metres in front, its sole level."""
    reach = np.hypot(ahead, HIP)
    knee = 2 * np.arccos(reach / (2 * LEG))
    hip = -(np.arctan2(ahead, HIP) + knee / 2)
    return float(hip), float(knee), float(-hip - knee)


def angles(quaternion: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Yaw, pitch and roll, [N] each, of unit quaternions [N, 4] with the real part first."""
    w, x, y, z = quaternion.T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1.0, 1.0))
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return yaw, pitch, roll
