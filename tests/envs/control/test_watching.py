"""What is recorded of an episode: places of the physics, terms that make the reward."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from polopt.envs.control.biped import Biped
from polopt.envs.control.biped.model import PHYSICS_STATE
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.pendulum import Pendulum
from polopt.envs.control.recording.view import as_json, rounded
from polopt.envs.control.registry import watch
from polopt.rollout.recording import shown


class Fixed:
    """An actor that does the same always."""

    def __init__(self, action: Any) -> None:
        self._action = np.array([action])

    def choose(self, observations: Any, generator: None) -> Any:
        return self._action

    def moved(self, actions: Any) -> Any:
        return actions


def episode(source: str, action: Any, seed: int = 0) -> dict[str, Any]:
    line = shown(watch(source, {}), Fixed(action), seed=seed)  # type: ignore[arg-type]
    return json.loads(json.dumps(line, allow_nan=False))


def test_an_episode_is_recorded_to_its_end() -> None:
    line = episode("control:cartpole", 1)
    steps = line["length"]
    assert line["ending"] == "terminated" and line["return"] == steps == len(line["rewards"])
    assert len(line["observations"]) == steps + 1 and line["actions"] == [1] * steps
    assert abs(line["observations"][-1][2]) > 12 * np.pi / 180  # the pole has fallen
    tip, axle = (np.array(line["drawing"]["points"][name]) for name in ("tip", "axle"))
    assert len(tip) == steps + 1
    assert np.linalg.norm(tip - axle, axis=1) == pytest.approx(1.0, abs=1e-3)
    assert axle[:, 0] == pytest.approx(np.array(line["observations"])[:, 0], abs=1e-4)
    assert np.arctan2(*(tip - axle)[-1]) == pytest.approx(line["observations"][-1][2], abs=1e-3)


def test_the_arm_is_drawn_where_the_observation_says() -> None:
    line = episode("control:pendulum", [2.0])
    assert line["ending"] == "truncated" and line["length"] == 200 and line["seconds"] == 0.05
    seen, tip = np.array(line["observations"]), np.array(line["drawing"]["points"]["tip"])
    assert tip[:, 1] == pytest.approx(seen[:, 0], abs=1e-3)  # cos of the angle from upright
    assert tip[:, 0] == pytest.approx(-seen[:, 1], abs=1e-3)  # which grows against the clock
    assert line["drawing"]["amounts"]["torque"] == [1.0] * 200
    assert line["drawing"]["points"]["pivot"] == [0.0, 0.0]
    terms = np.sum(list(line["terms"].values()), axis=0)
    assert terms == pytest.approx(line["rewards"], abs=1e-3)


def walked(steps: int, preset: str = "toolbox") -> tuple[Any, Any, list[float]]:
    """A robot that thrashes about."""
    pytest.importorskip("mujoco")
    robot, rng = Biped(preset), np.random.default_rng(0)
    state = robot.start(np.random.default_rng(3))[None]
    states, actions, rewards = [state[0]], [], []
    for _ in range(steps):
        action = rng.uniform(-1, 1, (1, 6))
        state, reward, _ = robot.advance(state, action)
        states.append(state[0])
        actions.append(action[0])
        rewards.append(float(reward[0]))
    return np.stack(states), np.stack(actions), rewards


def test_the_robot_is_drawn_where_the_physics_has_it() -> None:
    states, actions, _ = walked(40)
    mujoco = pytest.importorskip("mujoco")
    view, (model, data, _) = Biped().view(states, actions), Biped().simulator
    for i in range(0, 41, 8):
        mujoco.mj_setState(
            model, data, states[i][:PHYSICS_STATE], mujoco.mjtState.mjSTATE_FULLPHYSICS
        )
        mujoco.mj_kinematics(model, data)
        for side in ("right", "left"):
            for body, name in (("thigh", "hip"), ("shank", "knee"), ("foot", "ankle")):
                place = data.body(f"{side}_{body}").xpos[[0, 2]]
                assert view.points[f"{side}_{name}"][i] == pytest.approx(place, abs=1e-9)
            foot = data.body(f"{side}_foot")
            toe = foot.xpos + foot.xmat.reshape(3, 3) @ [0.033, 0.0, -0.006]
            assert view.points[f"{side}_toe"][i] == pytest.approx(toe[[0, 2]], abs=1e-9)


@pytest.mark.parametrize("preset", ["toolbox", "walk"])
def test_the_terms_of_the_robot_are_its_reward(preset: str) -> None:
    states, actions, rewards = walked(20, preset)
    terms = Biped(preset).terms(states, actions)
    assert [len(term) for term in terms.values()] == [20] * len(terms)
    assert sum(terms.values()) == pytest.approx(np.array(rewards), abs=1e-12)


def test_what_the_environment_says_of_the_episode_is_recorded() -> None:
    pytest.importorskip("mujoco")
    line = episode("control:biped", np.zeros(6))
    assert line["facts"]["distance_m"] == pytest.approx(
        line["drawing"]["points"]["middle"][-1][0], abs=1e-3
    )
    assert episode("control:cartpole", 1)["facts"] == {}


def test_the_series_of_the_robot_are_its_joints() -> None:
    states, actions, _ = walked(5)
    panels = {panel.title: panel for panel in Biped().view(states, actions).panels}
    seen = Biped().observe(states)
    assert np.radians(panels["Angle of the knee"].lines["left"]) == pytest.approx(
        seen[:, 19], abs=1e-5
    )
    assert np.radians(panels["Angle of the ankle"].lines["right"]) == pytest.approx(
        seen[:, 11], abs=1e-5
    )
    assert panels["Torque of the hip"].lines["left"] == pytest.approx(3 * actions[:, 5])
    assert panels["Foot contacts"].bars
    assert panels["Foot contacts"].lines["right"] == pytest.approx(seen[:, 23])


@pytest.mark.parametrize("dynamics", [CartPole(), Pendulum(), Biped()])
def test_shapes_have_the_points_and_amounts_that_they_name(dynamics: Any) -> None:
    states = np.stack([dynamics.start(np.random.default_rng(i)) for i in range(3)])
    discrete = hasattr(dynamics.action, "count")
    actions = np.zeros(2, dtype=int) if discrete else np.zeros((2, len(dynamics.action.low)))
    drawing = as_json(dynamics.view(states, actions))["drawing"]
    for shape in drawing["shapes"]:
        assert set(shape["points"]) <= drawing["points"].keys()
        assert shape.get("amount", "") in {"", *drawing["amounts"]}
    assert drawing["follows"] in {"", *drawing["points"]}


def test_numbers_are_rounded_to_the_largest_of_them() -> None:
    assert rounded(np.array([123.456789, 0.00123])) == [123.46, 0.0]
    assert rounded(np.array([0.0123456789])) == [0.012346]
    assert rounded(np.array([3, 4])) == [3, 4]
    assert rounded(np.zeros(2)) == [0.0, 0.0]


def test_an_environment_that_cannot_be_drawn_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    from polopt.envs.control.gymnasium import GymnasiumEnvironments

    def fail(_: Any) -> None:
        raise RuntimeError("no\nscreen")

    monkeypatch.setattr(GymnasiumEnvironments, "picture", lambda _: None)
    assert episode("control:MountainCarContinuous-v0", [0.0])["no_frames"]
    monkeypatch.setattr(GymnasiumEnvironments, "picture", fail)
    line = episode("control:MountainCarContinuous-v0", [0.0])
    assert line["no_frames"] and "\n" not in line["no_frames"]
    assert line["length"] == 999 and line["ending"] == "truncated" and "frames" not in line


def test_pictures_become_one_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    image = pytest.importorskip("PIL.Image")
    import base64
    import io

    import gymnasium

    class Drawn(gymnasium.Env[Any, Any]):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 24}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode, self._at = render_mode, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self._at = 0
            return np.zeros(1, dtype=np.float32), {}

        def step(self, action: Any) -> Any:
            self._at += 1
            return np.zeros(1, dtype=np.float32), 1.0, self._at == 23, False, {}

        def render(self) -> Any:
            return np.full((300, 400, 3), 10 * self._at, dtype=np.uint8)

    monkeypatch.setitem(
        gymnasium.registry,
        "Drawn-v0",
        gymnasium.envs.registration.EnvSpec("Drawn-v0", entry_point=Drawn),
    )
    frames = episode("control:Drawn-v0", 0)["frames"]
    assert (frames["width"], frames["height"], frames["every"]) == (180, 135, 2)
    assert frames["count"] == 12  # every second of 24 moments
    raw = base64.b64decode(frames["image"].removeprefix("data:image/webp;base64,"))
    sheet = np.asarray(image.open(io.BytesIO(raw)).convert("L"))
    assert sheet.shape == (2 * 135, 10 * 180)
    assert sheet[200, 180 + 90] == pytest.approx(220, abs=3)  # the last moment


def test_pictures_of_mujoco_are_drawn_as_large_as_they_are_needed() -> None:
    """And nothing else: what the environment computes stays the same."""
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    from polopt.envs.control.gymnasium import make
    from polopt.envs.control.recording.frames import FrameWatch

    watched = FrameWatch("Hopper-v5", {"width": 1000, "height": 500})
    renderer = watched._one.first.mujoco_renderer
    assert (renderer.width, renderer.height) == (360, 180)
    assert not renderer.model.light_castshadow.any() and not renderer.model.mat_reflectance.any()
    small = FrameWatch("Hopper-v5", {"width": 64, "height": 32})._one.first.mujoco_renderer
    assert (small.width, small.height) == (64, 32)
    plain = make("Hopper-v5", 1, {})
    assert np.array_equal(plain.reset(3), watched.environments.reset(3))
    for _ in range(20):
        action = np.full((1, 3), 0.3, dtype=np.float32)
        theirs, ours = plain.step(action), watched.environments.step(action)
        assert np.array_equal(theirs.successors, ours.successors)
        assert np.array_equal(theirs.rewards, ours.rewards)


def test_a_failure_without_a_word_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    from polopt.envs.control.gymnasium import GymnasiumEnvironments

    def fail(_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(GymnasiumEnvironments, "picture", fail)
    assert episode("control:FrozenLake-v1", 0)["no_frames"]


def test_the_robot_of_gymnasium_is_drawn_without_a_screen() -> None:
    """In a process that had imported MuJoCo before anybody thought of pictures."""
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    code = """
import mujoco, numpy as np
from polopt.envs.control.recording.frames import FrameWatch

for _ in range(2):
    watched = FrameWatch("polopt/BipedWalk-v0", {})
    watched.environments.reset(0)
    watched.look()
    told = watched.told(np.zeros((1, 6)))
    print(told["frames"]["count"] if "frames" in told else bool(told["no_frames"]))
"""
    without = {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"}
    settings = {name: value for name, value in os.environ.items() if name not in without}
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, capture_output=True, text=True, check=False, env=settings)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() in (
        ["1", "1"],
        ["True", "True"],
    )  # where EGL is missing, it says so
