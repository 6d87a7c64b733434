"""Environments of gymnasium: one record in every mode of autoreset, what cannot be served."""

import json
import sys
from typing import Any

import numpy as np
import pytest

from polopt.envs.control.arrays import ArrayEnvironments
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.gymnasium import GymnasiumEnvironments, make
from polopt.envs.control.interface import Box, Discrete
from polopt.envs.control.registry import make as registered
from polopt.errors import MissingExtraError, RecipeError

gymnasium = pytest.importorskip("gymnasium")
MODES = list(gymnasium.vector.AutoresetMode)


def cartpoles(mode: Any, count: int = 3) -> GymnasiumEnvironments:
    return GymnasiumEnvironments(
        gymnasium.make_vec(
            "CartPole-v1",
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": mode},
        )
    )


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_every_mode_gives_the_record_of_the_built_in_one(mode: Any) -> None:
    """Environment by environment, without the steps that did nothing but reset."""
    built_in, adapted = ArrayEnvironments(CartPole(), 3), cartpoles(mode)
    assert np.array_equal(built_in.reset(5), adapted.reset(5))
    ours: list[list[Any]] = [[] for _ in range(3)]
    theirs: list[list[Any]] = [[] for _ in range(3)]
    pushes = np.random.default_rng(0).integers(0, 2, (400, 3))
    taken = [0, 0, 0]
    for push in pushes:
        step = built_in.step(push)
        for i in range(3):
            ours[i].append((*step.successors[i], step.rewards[i], step.terminated[i]))
    for _ in range(300):
        step = adapted.step(np.array([pushes[taken[i], i] for i in range(3)]))
        for i in range(3):
            if step.valid[i]:
                theirs[i].append((*step.successors[i], step.rewards[i], step.terminated[i]))
                taken[i] += 1
    for i in range(3):
        assert len(theirs[i]) > 250
        assert theirs[i] == ours[i][: len(theirs[i])]
        assert sum(bool(row[-1]) for row in theirs[i]) > 5


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_the_successor_of_a_last_step_is_the_final_observation(mode: Any) -> None:
    adapted = cartpoles(mode, 1)
    adapted.reset(0)
    for _ in range(30):
        step = adapted.step(np.array([1]))
        if step.terminated[0]:
            break
    assert abs(step.successors[0, 2]) > 0.2
    following = adapted.step(np.array([1]))
    if mode.name == "NEXT_STEP":  # one step later an episode begins
        assert not following.valid[0] and abs(following.observations[0, 2]) < 0.05
    else:
        assert following.valid[0] and abs(step.observations[0, 2]) < 0.05


class Clock(gymnasium.Env[Any, Any]):
    """Sees and earns how many steps its episode has taken; over with the third where told so."""

    observation_space = gymnasium.spaces.Box(0.0, 99.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        seen = np.array([self.taken], dtype=np.float32)
        return seen, float(self.taken), bool(action) and self.taken == 3, False, {}


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("limit", [3, 4])
def test_a_time_limit_is_told_from_an_end_in_every_mode(mode: Any, limit: int) -> None:
    """Environment 0 is never over and cut by the limit, 1 is over in step 3, 2 by turns."""
    adapted = GymnasiumEnvironments(
        gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.wrappers.TimeLimit(Clock(), limit)] * 3, autoreset_mode=mode
        )
    )
    ages, episodes = adapted.reset(0)[:, 0], [0, 0, 0]
    ended: list[list[tuple[int, bool, bool]]] = [[], [], []]
    for _ in range(20):
        step = adapted.step(np.array([0, 1, episodes[2] % 2]))
        for i in range(3):
            if not step.valid[i]:  # it began an episode and did nothing else
                assert mode.name == "NEXT_STEP" and step.observations[i] == 0
                assert not step.terminated[i] and not step.truncated[i]
                continue
            assert step.successors[i] == ages[i] + 1 == step.rewards[i]
            if step.terminated[i] or step.truncated[i]:
                found = (int(step.successors[i, 0]), step.terminated[i], step.truncated[i])
                ended[i].append(found)
                episodes[i] += 1
                assert mode.name == "NEXT_STEP" or step.observations[i] == 0
        ages = step.observations[:, 0]
    cut, over = (limit, False, True), (3, True, limit == 3)  # both at once where both are
    assert len(ended[0]) >= 4 and set(ended[0]) == {cut}
    assert len(ended[1]) >= 4 and set(ended[1]) == {over}
    assert ended[2][:4] == [cut, over, cut, over]


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1"])
def test_who_takes_up_the_state_goes_on_as_the_other_does(name: str) -> None:
    """In the middle of episodes, where one ended, and where the next one began."""
    rng, one = np.random.default_rng(0), make(name, 3, {})

    def drawn() -> Any:
        action = one.action
        if isinstance(action, Discrete):
            return rng.integers(0, action.count, 3)
        return rng.uniform(action.low, action.high, (3, 1)).astype(np.float32)

    one.reset(5)
    states = 0
    for step in range(60):
        before = one.step(drawn())
        ended = before.terminated | before.truncated
        if step % 20 and not ended.any() and before.valid.all():
            continue
        states += 1
        other = make(name, 3, {})
        seen = other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert np.array_equal(seen, before.observations)
        for _ in range(12):
            actions = drawn()
            theirs, ours = vars(one.step(actions)), vars(other.step(actions))
            assert all(np.array_equal(theirs[key], ours[key]) for key in theirs if key != "facts")
    assert states >= (3 if name.startswith("Mountain") else 8)


def test_vectors_that_do_not_remember_begin_anew() -> None:
    assert cartpoles(MODES[0]).state_dict() is None


class Odd(gymnasium.Env[Any, Any]):
    """Sees a number from 1 to 5 and moves by numbers in two rows."""

    observation_space = gymnasium.spaces.Discrete(5, start=1)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 5, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return 1, float(action[1, 0]), False, False, {}


def test_shapes_and_first_numbers_of_spaces_are_kept() -> None:
    odd = GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Odd, Odd]))
    assert odd.reset(0).tolist() == [[0, 0, 0, 0, 1]] * 2
    step = odd.step(np.arange(12.0).reshape(2, 6) / 11)  # of twice the precision
    assert step.observations.tolist() == [[1, 0, 0, 0, 0]] * 2
    assert step.rewards == pytest.approx([3 / 11, 9 / 11])


def test_whole_numbers_are_no_continuous_actions() -> None:
    class Whole(Odd):
        action_space = gymnasium.spaces.Box(0, 10, (2,), np.int64)

    with pytest.raises(RecipeError, match=r"actions of whole numbers, Box\(0, 10"):
        GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Whole]))


def test_actions_may_begin_anywhere() -> None:
    taken: list[int] = []

    class Counted(Odd):
        action_space = gymnasium.spaces.Discrete(3, start=2)

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            taken.append(int(action))
            return 1, 0.0, False, False, {}

    counted = GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Counted] * 3))
    assert counted.action == Discrete(3)
    counted.reset(0)
    counted.step(np.array([0, 1, 2]))
    assert taken == [2, 3, 4]


BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,))
UNBOUNDED = gymnasium.spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Dict(place=BOX, kind=gymnasium.spaces.Discrete(3)),
        gymnasium.spaces.Tuple((BOX, BOX)),
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(4),
    ],
)
def test_the_wrapper_that_is_advised_makes_observations_readable(space: Any) -> None:
    class Seen(Odd):
        observation_space = space

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return space.sample(), {}

    with pytest.raises(RecipeError) as error:
        GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Seen]))
    advised = str(error.value).partition("is needed, which gymnasium.wrappers.")[2].split()[0]
    wrapper = getattr(gymnasium.wrappers, advised)
    flat = GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([lambda: wrapper(Seen())]))
    assert flat.reset(0).shape == (1, gymnasium.spaces.flatdim(space))


@pytest.mark.parametrize(
    ("space", "other", "function"),
    [
        (
            gymnasium.spaces.MultiDiscrete([2, 3]),
            gymnasium.spaces.Discrete(6),
            lambda action: np.array(np.unravel_index(action, (2, 3))),
        ),
        (UNBOUNDED, BOX, lambda action: 10 * action),
        (gymnasium.spaces.Box(0, 9, (2,), np.int64), BOX, lambda a: (5 * abs(a)).astype(np.int64)),
    ],
)
def test_the_wrapper_that_is_advised_makes_actions_possible(
    space: Any, other: Any, function: Any
) -> None:
    class Moved(Odd):
        action_space = space

        def step(self, action: Any) -> Any:
            assert space.contains(action)
            return 1, 0.0, False, False, {}

    with pytest.raises(RecipeError) as error:
        GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Moved]))
    advised = str(error.value).partition("is needed, from which gymnasium.wrappers.")[2].split()[0]
    wrapper = getattr(gymnasium.wrappers, advised)
    moved = GymnasiumEnvironments(
        gymnasium.vector.SyncVectorEnv([lambda: wrapper(Moved(), function, other)])
    )
    moved.reset(0)
    moved.step(np.array([5]) if moved.action == Discrete(6) else np.ones((1, 2)))


def test_what_no_wrapper_flattens_is_not_advised() -> None:
    class Endless(Odd):
        observation_space = gymnasium.spaces.Sequence(BOX)

    with pytest.raises(RecipeError, match=r"observes a Sequence; a Box or a Discrete is needed$"):
        GymnasiumEnvironments(gymnasium.vector.SyncVectorEnv([Endless]))


def test_actions_and_observations_of_the_spaces() -> None:
    assert make("CartPole-v1", 1, {}).action == Discrete(2)
    pendulum = make("Pendulum-v1", 2, {})
    assert isinstance(pendulum.action, Box) and pendulum.action.high.tolist() == [2.0]
    lake = make("FrozenLake-v1", 2, {"is_slippery": False})
    assert lake.observation_size == 16 and lake.action == Discrete(4)
    assert lake.reset(0).tolist() == [[1.0] + [0.0] * 15] * 2


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        (
            "CartPol-v1",
            {},
            "data.source: 'control:CartPol-v1' is not allowed; did you mean control:CartPole-v1?",
        ),
        ("Zyx-v7", {}, "data.source: 'control:Zyx-v7' is not allowed; an id of gymnasium"),
        ("CartPole-v1", {"foo": 1}, "data.source: 'control:CartPole-v1': "),
        ("Blackjack-v1", {}, "data.source: Blackjack-v1 observes a Tuple; a Box or a Discrete"),
    ],
)
def test_what_cannot_be_served_is_told(name: str, parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        make(name, 1, parameters)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("mode", ["async", "vector_entry_point"])
def test_environments_are_stepped_where_a_run_can_resume_them(mode: str) -> None:
    with pytest.raises(RecipeError) as error:
        registered("control:CartPole-v1", 2, {"vectorization_mode": mode})
    assert str(error.value).startswith(
        f"data.parameters.vectorization_mode: '{mode}' is not allowed; sync, because a run resumes"
    )


def test_names_of_ours_are_advised_too() -> None:
    with pytest.raises(RecipeError, match=r"'control:cartpol' is not .* mean control:cartpole\?"):
        registered("control:cartpol", 1, {})


def test_what_an_environment_needs_is_told() -> None:
    with pytest.raises(MissingExtraError) as error:
        make("LunarLander-v3", 1, {})
    assert str(error.value).startswith("data.source: 'control:LunarLander-v3': Box2D is not insta")
    assert "polopt[control]" not in str(error.value)  # it does not bring that
    with pytest.raises(MissingExtraError, match=r"'control:Hopper-v3': The mujoco v2 and v3"):
        make("Hopper-v3", 1, {})


def test_what_the_extra_brings_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'imageio'")

    monkeypatch.setattr(gymnasium, "make_vec", missing)
    monkeypatch.setattr("polopt.envs.control.gymnasium.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"imageio'; pip install 'polopt\[control\]'"):
        make("Hopper-v5", 1, {})
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError) as error:
        registered("control:cartpol", 1, {})
    assert str(error.value) == (
        "data.source: 'control:cartpol' needs the package gymnasium: pip install "
        '"polopt[control]", or did you mean control:cartpole?'
    )
