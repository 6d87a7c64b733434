"""How the robot sets its feet: swings, landings and the figures of a gait, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polopt.envs.control.biped.stride import (
    AHEAD,
    BEFORE,
    BEGAN,
    CLEARANCE,
    COLUMNS,
    SWING,
    after_step,
    gait,
)

STEP = 0.025
RIGHT = [  # of the right foot: whether it stands, height of its sole, place along the way
    (True, 0.0, 0.0),
    (False, 0.004, 0.0),  # lifted 4 cm behind the left one
    (False, 0.012, 0.05),
    (False, 0.006, 0.09),
    (True, 0.0, 0.1),  # lands 6 cm in front of it
    (True, 0.0, 0.1),
]
LEFT = 0.04  # where the left foot stands all the time


def walked(rows: Any = RIGHT, torques: float = 1.0) -> list[Any]:
    stride, stood = np.zeros((1, COLUMNS)), np.zeros((1, 2), dtype=np.bool_)
    before, history = np.zeros((1, 6)), []
    for stands, height, place in rows:
        now, applied = np.array([[stands, True]]), np.full((1, 6), torques)
        applied[0, 0] = 0.5
        stride = after_step(
            stride,
            STEP,
            stood=stood,
            stands=now,
            heights=np.array([[height, 0.0]]),
            places=np.array([[place, LEFT]]),
            before=before,
            torques=applied,
        )
        stood, before = now, applied
        history.append(stride)
    return history


def test_a_swing_is_remembered_until_the_foot_has_landed() -> None:
    history = walked()
    assert [one[0, SWING][0] for one in history] == pytest.approx([0, 0.025, 0.05, 0.075, 0.075, 0])
    heights = [one[0, CLEARANCE][0] for one in history]
    assert heights == pytest.approx([0, 0.004, 0.012, 0.012, 0.012, 0])
    assert [one[0, BEGAN][0] for one in history] == pytest.approx(
        [0, -0.04, -0.04, -0.04, -0.04, 0]
    )
    assert [one[0, AHEAD][0] for one in history] == pytest.approx([0, 0, 0, 0, 0.06, 0])
    assert all((one[0, [1, 3, 5, 7]] == 0).all() for one in history)  # the left one stands


def test_a_robot_that_is_set_down_at_the_start_has_not_landed() -> None:
    assert walked([(True, 0.0, 0.0)] * 2)[-1][0, : AHEAD.stop].tolist() == [0.0] * 8
    assert gait(walked([(True, 0.0, 0.0)] * 2)[-1], STEP)["touches_per_s"] == 0.0


def test_the_torques_before_are_kept() -> None:
    assert [one[0, BEFORE].tolist() for one in walked(RIGHT[:2])] == [[0.0] * 6, [0.5, *[1.0] * 5]]


def test_the_figures_of_a_gait() -> None:
    """Six steps: three on one foot, none in the air; one lifted and one landed; 5 of 6 torques."""
    found = {name: float(value[0]) for name, value in gait(walked()[-1], STEP).items()}
    assert found == pytest.approx(
        {
            "in_air": 0.0,
            "on_one_foot": 0.5,
            "touches_per_s": 2 / 0.15,
            "step_m": 0.06,
            "lift_m": 0.012,
            "saturated": 5 / 6,
        }
    )


def test_both_feet_off_the_floor_is_in_the_air() -> None:
    stood = np.ones((1, 2), dtype=np.bool_)
    stride = after_step(
        np.zeros((1, COLUMNS)),
        STEP,
        stood=stood,
        stands=~stood,
        heights=np.zeros((1, 2)),
        places=np.zeros((1, 2)),
        before=np.zeros((1, 6)),
        torques=np.zeros((1, 6)),
    )
    found = gait(stride, STEP)
    assert (found["in_air"][0], found["on_one_foot"][0], found["step_m"][0]) == (1.0, 0.0, 0.0)
    assert found["touches_per_s"][0] == pytest.approx(2 / STEP)
