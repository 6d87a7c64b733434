"""The walking robot: what it sees, what it earns, how it starts and ends, and gymnasium's view."""

import sys
from typing import Any

import numpy as np
import pytest

from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.biped import Biped, stride
from polopt.envs.control.biped.dynamics import STRIDE
from polopt.envs.control.biped.model import (
    HEIGHT,
    LEG,
    PHYSICS_STATE,
    QPOS,
    QVEL,
    angles,
    leg,
)
from polopt.envs.control.biped.reward import BIPED_PRESETS, GAIT_PRESETS
from polopt.envs.control.registry import make
from polopt.errors import MissingExtraError, RecipeError

mujoco = pytest.importorskip("mujoco")

WIDTH = len(Biped().start(np.random.default_rng(0)))


def standing(count: int = 1) -> Any:
    """States of robots that stand still in their place."""
    state = np.zeros((count, WIDTH))
    state[:, 3], state[:, 4] = HEIGHT, 1.0
    state[:, 8:11] = state[:, 11:14] = leg(0.0)
    return state


def feet(state: Any) -> Any:
    """Positions of the two feet and how their soles stand, by MuJoCo's own kinematics."""
    model, data, _ = Biped().simulator
    mujoco.mj_setState(model, data, state[:PHYSICS_STATE], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    mujoco.mj_kinematics(model, data)
    bodies = [data.body(f"{side}_foot") for side in ("right", "left")]
    return [body.xpos.copy() for body in bodies], [body.xmat.reshape(3, 3)[2, 2] for body in bodies]


def test_the_model_is_the_robot_that_was_described() -> None:
    model, _, _ = Biped().simulator
    assert (model.nq, model.nv, model.nu) == (13, 12, 6)
    assert model.body_mass.sum() == pytest.approx(0.16 + 4 * 0.009 + 2 * 0.024)
    names = [model.actuator(i).name for i in range(6)]
    assert names == [f"{s}_{j}" for s in ("right", "left") for j in ("ankle", "knee", "hip")]
    assert model.actuator_gear[:, 0].tolist() == [3.0] * 6
    assert model.opt.timestep == 0.0025
    assert model.opt.gravity[2] == -9.80665
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    ranges = {model.joint(i).name: np.degrees(model.joint(i).range) for i in range(1, 7)}
    for side in ("right", "left"):
        assert ranges[f"{side}_hip"] == pytest.approx([-45, 45])
        assert ranges[f"{side}_knee"] == pytest.approx([-2, 120])
        assert ranges[f"{side}_ankle"] == pytest.approx([-45, 45])
    assert model.dof_damping[6:].tolist() == [1.0] * 6


def test_only_the_balls_under_the_feet_touch_the_floor() -> None:
    model, _, _ = Biped().simulator
    names = [model.geom(i).name for i in range(model.ngeom)]
    balls = [f"{side}_ball{i}" for side in ("right", "left") for i in (1, 2, 3, 4)]
    assert [n for i, n in enumerate(names) if model.geom_contype[i]] == balls
    assert [n for i, n in enumerate(names) if model.geom_conaffinity[i]] == ["floor"]
    assert [model.geom(ball).size[0] for ball in balls] == [0.005] * 8
    assert [model.geom(ball).friction[0] for ball in (*balls, "floor")] == [0.9] * 9


@pytest.mark.parametrize("ahead", [-0.05, 0.0, 0.03])
def test_a_leg_puts_its_sole_flat_where_it_should(ahead: float) -> None:
    state = standing()[0]
    state[8:11], state[11:14] = leg(-ahead), leg(ahead)
    (right, left), flat = feet(state)
    assert flat == pytest.approx([1.0, 1.0])
    assert left[0] - right[0] == pytest.approx(2 * ahead, abs=1e-9)
    assert [left[2], right[2]] == pytest.approx([0.01, 0.01], abs=2e-4)  # ankles over the floor
    assert leg(0.0)[1] == pytest.approx(2 * np.arccos(0.18 / (2 * LEG)))  # knees bent 51.7 degrees


def test_the_observation_has_the_stated_order() -> None:
    state = standing()
    state[0, QPOS : QPOS + 3] = [4.0, 0.2, HEIGHT + 0.05]
    state[0, QVEL : QVEL + 6] = [0.1, 0.2, 0.3, 1.0, 2.0, 3.0]
    state[0, 8:14] = [11, 12, 13, 21, 22, 23]  # right hip, knee, ankle; left
    state[0, QVEL + 6 : QVEL + 12] = [-11, -12, -13, -21, -22, -23]
    state[0, -8:] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1, 0]
    seen = Biped().observe(state)[0]
    assert seen.shape == (31,) and seen.dtype == np.float32
    body = [0.2, 1.0, 0.1, 0.2, 0.3, 0, 0, 0, 1, 2, 3]
    right, left = [13, -13, 12, -12, 11, -11], [23, -23, 22, -22, 21, -21]
    expected = [*body, *right, *left, 1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert seen.tolist() == pytest.approx(expected, abs=1e-6)


def test_angles_are_those_of_turns_about_one_axis() -> None:
    half = 0.15
    c, s = np.cos(half), np.sin(half)
    turns = np.array([[c, 0, 0, s], [c, 0, s, 0], [c, s, 0, 0]])  # about z, y, x
    found = np.stack(angles(turns), 1)
    assert found == pytest.approx(np.eye(3) * 0.3)


def test_the_reward_has_its_terms() -> None:
    """.4 - 3·.1² - 50·.02² + 25·.025/10 - .02·(.25 + .25 + 1 + 1 + .04) by hand: .3617."""
    state = standing()
    state[0, QPOS + 1], state[0, QPOS + 2] = 0.1, HEIGHT + 0.02
    state[0, QVEL] = 0.4
    state[0, -8:-2] = [0.5, -0.5, 1, -1, 0, 0.2]
    assert Biped().reward(state)[0] == pytest.approx(0.3617)
    assert Biped("github2d").reward(state)[0] == pytest.approx(0.3105)
    assert set(BIPED_PRESETS) >= {"toolbox", "github2d", "github3d"}


def test_standing_still_for_ten_seconds_earns_less_than_walking_could() -> None:
    one = ArrayEnvironments(Biped(), 8)
    one.reset(0)
    total = np.zeros(8)
    for _ in range(400):
        step = one.step(np.zeros((8, 6)))
        total += step.rewards
        assert not step.terminated.any()
    assert step.truncated.all()
    assert (total > 15).all() and (total < 25).all()
    assert step.successors[:, 23:25].all()  # on both feet


@pytest.mark.parametrize(
    ("column", "value"),
    [(QPOS + 2, 0.1), (QPOS + 1, 1.1), (QPOS + 1, -1.1)],
    ids=["falls", "left", "right"],
)
def test_it_is_over_where_it_falls_or_strays(column: int, value: float) -> None:
    state = standing(2)
    state[0, column] = value
    assert Biped().over(state).tolist() == [True, False]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_it_is_over_where_it_turns_too_far(axis: int) -> None:
    state = standing(2)
    state[0, QPOS + 3] = np.cos(0.45)
    state[0, QPOS + 3 + axis] = np.sin(0.45)
    assert Biped().over(state).tolist() == [True, False]


def test_half_of_the_starts_are_random_and_half_of_those_are_pushed() -> None:
    robot = Biped()
    states = np.stack([robot.start(np.random.default_rng(i)) for i in range(2000)])
    apart = np.abs(states[:, 8] - states[:, 11]) > 1e-9
    pushed = np.abs(states[:, QVEL]) > 0
    assert 0.45 < apart.mean() < 0.55
    assert 0.2 < pushed.mean() < 0.3
    assert not (pushed & ~apart).any()
    assert np.abs(states[:, QVEL]).max() <= 0.05 and np.abs(states[:, QVEL + 1]).max() <= 0.025


def test_the_action_is_clipped_and_remembered() -> None:
    after = Biped().advance(standing(), np.full((1, 6), 9.0))[0]
    assert after[0, -8:-2].tolist() == [1.0] * 6
    assert after.shape[1] == WIDTH


def test_soles_are_measured_over_the_floor_and_feet_along_the_way() -> None:
    """Dropped from 5 cm with the right foot 6 cm behind: it falls g/2 (25 ms)² = 3 mm."""
    state = standing()
    state[0, 8:11], state[0, 11:14] = leg(-0.03), leg(0.03)
    state[0, 3] += 0.05
    after = Biped().advance(state, np.zeros((1, 6)))[0][0, STRIDE]
    assert after[stride.SWING] == pytest.approx([0.025, 0.025])
    assert after[stride.CLEARANCE] == pytest.approx([0.047, 0.047], abs=2e-3)
    assert after[stride.BEGAN] == pytest.approx([-0.06, 0.06], abs=2e-3)


def test_a_preset_of_a_gait_has_terms_of_its_own() -> None:
    state = standing()
    state[0, QVEL] = 0.5
    state[0, -8:-2] = 0.5
    state[0, -2:] = [0, 1]
    plain, walk = Biped().reward(state)[0], Biped("walk").reward(state)[0]
    names = Biped("walk").terms(np.repeat(state, 2, 0), np.zeros((1, 6)))
    gait = ("too fast", "flight", "swing", "stride", "clearance", "jerks")
    assert walk - plain == pytest.approx(sum(names[name][0] for name in gait))
    assert names["too fast"][0] == pytest.approx(GAIT_PRESETS["walk"]["enough_speed"] - 0.5)
    assert names["jerks"][0] == pytest.approx(-GAIT_PRESETS["walk"]["change_cost"] * 6 * 0.25)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"preset": "run"}, "data.parameters.preset: 'run' is not allowed; toolbox, github2d"),
        ({"physics": 0.004}, "data.parameters.physics: 0.004 is not allowed; 0.025 s or a whole"),
        ({"physics": -1.0}, "data.parameters.physics: -1.0 is not allowed"),
    ],
)
def test_what_there_is_not_is_refused(parameters: Any, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        make("control:biped", 1, parameters)
    assert str(error.value).startswith(told)


def test_without_its_simulator_there_is_no_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as it is made: a run has not begun."""
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"'biped' needs the package mujoco: pip install"):
        make("control:biped", 1, {})


def test_finer_physics_is_the_same_robot() -> None:
    """Ten steps of standing still end within a millimetre."""
    states = [standing(), standing()]
    for _ in range(10):
        states = [
            Biped(physics=physics).advance(state, np.zeros((1, 6)))[0]
            for physics, state in zip((0.0025, 0.00125), states, strict=True)
        ]
    assert states[0][0, 0] == pytest.approx(0.25) and states[1][0, 0] == pytest.approx(0.25)
    assert states[0][0, QPOS : QPOS + 3] == pytest.approx(states[1][0, QPOS : QPOS + 3], abs=1e-3)


def test_a_robot_does_not_depend_on_the_others() -> None:
    alone, many = ArrayEnvironments(Biped(), 1), ArrayEnvironments(Biped(), 4)
    alone.reset(3), many.reset(3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, (1, 6))
        a, b = alone.step(action), many.step(np.repeat(action, 4, 0))
        assert np.array_equal(a.successors[0], b.successors[0])


def test_gymnasium_has_it_and_its_checker_is_content() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    import polopt.envs.control  # noqa: F401

    one = gymnasium.make("polopt/BipedWalk-v0")
    assert (one.observation_space.shape, one.action_space.shape) == ((31,), (6,))
    with pytest.warns(UserWarning, match="infinity"):  # observations have no bounds
        check_env(one.unwrapped, skip_render_check=True)
    ours = ArrayEnvironments(Biped(), 1)
    assert np.array_equal(ours.reset(5)[0], one.reset(seed=5)[0])
    rng = np.random.default_rng(1)
    for _ in range(100):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        step, theirs = ours.step(action[None]), one.step(action)
        assert np.array_equal(step.successors[0], theirs[0])
        assert step.rewards[0] == theirs[1]
        if theirs[2] or theirs[3]:
            break
