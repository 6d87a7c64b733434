"""Vector environments of gymnasium, in each of its autoreset modes.

Since gymnasium 1.0 a vector environment may reset in the step after an episode ended (NEXT_STEP,
the default: that step does nothing and is not valid), in the same step (SAME_STEP: the final
observation stands in ``info``), or on request (DISABLED). All become the same transitions.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polopt.choices.domain import CONTROL
from polopt.envs.control.interface import Action, Box, Discrete, Transition
from polopt.errors import (
    MissingExtraError,
    RecipeError,
    UserError,
    did_you_mean,
    missing_extra,
    one_line,
)

if TYPE_CHECKING:
    from polopt.envs.control.repeatable import Repeatable

THEIRS = (Exception, SystemExit)  # raised by code of environments; sys.exit must not end a run
WRAPPERS = "gymnasium.wrappers"
EXTRA = ("gymnasium", "mujoco", "imageio")  # what pip install 'polopt[control]' brings


def make(
    name: str, count: int, parameters: Mapping[str, Any], others: Collection[str] = ()
) -> GymnasiumEnvironments:
    """``count`` environments of an id of gymnasium.

    Args:
        name: an id of gymnasium, or ``module:ID`` where importing the module registers it.
        count: N.
        parameters: of the constructor.
        others: names of the built-in environments, for the advice of an error.

    Raises:
        MissingExtraError: gymnasium, or what the environment needs, is not installed.
        RecipeError: there is no such environment, it cannot be made with the parameters, or no
            policy of polopt fits its observations or actions.
    """
    field = f"data.source: {f'{CONTROL.name}:{name}'!r}"
    try:
        import gymnasium
    except ImportError as error:
        near = _near(name, others)
        told = missing_extra(field, "gymnasium", "control", error)
        raise MissingExtraError(f"{told}{near and f', or {near}'}") from error
    if (mode := parameters.get("vectorization_mode", "sync")) != "sync":
        raise RecipeError(
            f"data.parameters.vectorization_mode: {mode!r} is not allowed; sync, because a run "
            "resumes where each environment stands"
        )
    try:
        vector = _made(name, count, parameters)
    except gymnasium.error.UnregisteredEnv as error:
        near = _near(name, [*others, *gymnasium.registry])
        advice = near or "an id of gymnasium, MODULE:ID, or a built-in one"
        raise RecipeError(f"{field} is not allowed; {advice}") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        reason = one_line(error).split(". Environment registration")[0]
        raise MissingExtraError(f"{field}: {reason}{_help(name, reason)}") from error
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise RecipeError(f"{field}: {one_line(error)}") from error
    except THEIRS as error:  # a constructor that is not ours may raise anything
        raise RecipeError(f"{field} cannot be made: {_told(error)}") from error
    return GymnasiumEnvironments(vector)


def unlimited(name: str) -> bool:
    """Whether an id is registered without a time limit; its episodes may terminate nonetheless."""
    import gymnasium

    spec = gymnasium.registry.get(name.rpartition(":")[2])
    return spec is not None and spec.max_episode_steps is None


def _made(name: str, count: int, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A vector environment whose parts can repeat their episodes, to resume."""
    import gymnasium

    from polopt.envs.control.repeatable import Repeatable

    how: dict[str, Any] = {"vectorization_mode": "sync", "wrappers": [Repeatable], **parameters}
    return gymnasium.make_vec(name, num_envs=count, **how)


def _near(name: str, known: Collection[str]) -> str:
    """Advice on a known name that is similar to this one; empty without any."""
    module, colon, own = name.rpartition(":")
    return did_you_mean(own, known, as_=f"{CONTROL.name}:{module}{colon}{{}}")


def _help(name: str, reason: str) -> str:
    """What to install, for reasons that do not say it; empty without any."""
    module, colon, _ = name.rpartition(":")
    if colon and f"'{module}'" in reason:
        return "; an installed module, or PYTHONPATH=. for one in this directory"
    lacking = (package for package in EXTRA if find_spec(package) is None)
    if any(package in reason.lower() for package in lacking):
        return "; pip install 'polopt[control]'"
    return ""


def _told(error: BaseException) -> str:
    """An exception of an environment in one line, and where it was raised."""
    what = one_line("".join(traceback.format_exception_only(error)))
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{what} ({Path(last.filename).name}:{last.lineno})"


class GymnasiumEnvironments:
    """A vector environment of gymnasium; observations are flattened to numbers.

    Raises:
        RecipeError: spaces that no policy of polopt fits; anything that an environment raises.
    """

    def __init__(self, vector: Any) -> None:  # noqa: ANN401
        import gymnasium

        self._vector = vector
        self._mode = vector.metadata["autoreset_mode"].name
        self._ended = np.zeros(vector.num_envs, dtype=np.bool_)
        self._steps = 0  # since the reset
        self._space = vector.single_observation_space
        if not isinstance(self._space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            kind = type(self._space).__name__
            flat = self._space.is_np_flattenable  # not of a Sequence or a Graph
            remedy = f", which {WRAPPERS}.FlattenObservation makes of it" if flat else ""
            raise RecipeError(
                f"data.source: {self._name} observes a {kind}; a Box or a Discrete is needed"
                f"{remedy}"
            )
        self._flat: int = gymnasium.spaces.flatdim(self._space)
        start = getattr(self._space, "start", None)  # of a Discrete
        self._first = None if start is None else int(start)
        self._action = _action(vector.single_action_space, self._name)

    @property
    def _name(self) -> str:
        spec = self._vector.spec
        return type(self._vector).__name__ if spec is None else str(spec.id)

    @property
    def count(self) -> int:
        """The number N of environments."""
        return int(self._vector.num_envs)

    @property
    def seconds(self) -> float | None:
        """The duration of a step; None: unknown."""
        per_second = self._vector.metadata.get("render_fps")
        return None if not per_second else 1 / float(per_second)

    @property
    def first(self) -> Any:  # noqa: ANN401 - whatever it is
        """The first environment itself, without its wrappers."""
        return self._vector.envs[0].unwrapped

    def picture(self) -> NDArray[np.uint8] | None:
        """A picture of the first environment, [H, W, 3]; needs ``render_mode = "rgb_array"``."""
        pictures = self._vector.render()
        return None if pictures is None else pictures[0]

    @property
    def observation_size(self) -> int:
        """The length O of an observation."""
        return self._flat

    @property
    def action(self) -> Action:
        """The space of actions."""
        return self._action

    @property
    def figures(self) -> Collection[str]:
        """No figures beside the return."""
        return ()

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Begin an episode in each, environment i with the seed ``seed + i``."""
        self._steps = 0
        with self._theirs():
            observations, _ = self._vector.reset(seed=seed)
        self._ended = np.zeros(self.count, dtype=np.bool_)
        return self._flattened(observations)

    def step(self, actions: NDArray[Any]) -> Transition:
        """One step in each."""
        self._steps += 1
        space = self._vector.single_action_space
        counted = actions.astype(space.dtype) + getattr(space, "start", 0)
        taken = counted.reshape(self.count, *space.shape)
        with self._theirs():
            raw, rewards, terminated, truncated, info = self._vector.step(taken)
        observations = self._flattened(raw)
        successors, valid = observations, np.ones(self.count, dtype=np.bool_)
        ended = np.logical_or(terminated, truncated)
        match self._mode:
            case "SAME_STEP":
                if ended.any():
                    successors = observations.copy()
                    final = [info["final_obs"][i] for i in ended.nonzero()[0]]
                    successors[ended] = self._flattened(np.stack(final))
            case "DISABLED":
                if ended.any():
                    with self._theirs():
                        again, _ = self._vector.reset(options={"reset_mask": ended})
                    observations = np.where(ended[:, None], self._flattened(again), successors)
            case _:
                valid = ~self._ended  # this step reset the environment and took no action
                self._ended = ended
        return Transition(
            observations,
            successors,
            np.array(rewards, dtype=np.float64),  # a vector may write its next ones over these
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            valid,
        )

    def state_dict(self) -> Mapping[str, Any] | None:
        """How each episode began and its actions; None: not all environments are repeatable."""
        episodes = self._episodes()
        if episodes is None:
            return None
        return {
            "episodes": [episode.state_dict() for episode in episodes],
            "ended": self._ended.tolist(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Repeat the saved episodes; returns the observations to act on, [N, O]."""
        episodes = self._episodes()
        assert episodes is not None, "they remembered when the state was saved"
        with self._theirs():
            both = zip(episodes, state["episodes"], strict=True)
            seen = np.stack([episode.repeat(one) for episode, one in both])
        self._ended, self._steps = np.array(state["ended"], dtype=np.bool_), state["steps"]
        return self._flattened(seen)

    def _episodes(self) -> Sequence[Repeatable] | None:
        from polopt.envs.control.repeatable import Repeatable

        held: Sequence[Any] = getattr(self._vector, "envs", ())
        remembering = [one for one in held if isinstance(one, Repeatable)]
        return remembering if len(remembering) == self.count else None

    @contextmanager
    def _theirs(self) -> Generator[None]:
        """Turn any exception of an environment into a RecipeError of one line."""
        try:
            yield
        except UserError:
            raise
        except THEIRS as error:
            raise RecipeError(f"data.source: {self._raised()}: {_told(error)}") from error

    def _raised(self) -> str:
        """Which environment raised, and in which step; if unknown, the step of the vector."""
        for number, one in enumerate(self._episodes() or ()):
            if one.raised_in is not None:
                step = one.raised_in
                when = f"in step {step} of its episode" if step else "as its episode began"
                return f"environment {number} of {self._name} raised {when}"
        when = f"in step {self._steps}, counted from the first reset on"
        return f"{self._name} raised {when if self._steps else 'as its episodes began'}"

    def _flattened(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Observations [N, O]; a discrete one of n values becomes a one-hot vector."""
        if self._first is not None:
            place = observations.astype(np.int64) - self._first
            return np.eye(self._flat, dtype=np.float32)[place]
        return observations.reshape(len(observations), -1).astype(np.float32)


def _action(space: Any, name: str) -> Action:  # noqa: ANN401
    import gymnasium

    remedy = f"from which {WRAPPERS}.TransformAction makes such actions"
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.integer):
        raise RecipeError(
            f"data.source: {name} has actions of whole numbers, {space}; a Discrete or a Box of "
            f"floating point is needed, {remedy}"
        )
    if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
        return Box(space.low.reshape(-1).astype(np.float32), space.high.reshape(-1))
    raise RecipeError(
        f"data.source: {name} has actions of the kind {space}; a Discrete or a bounded Box is "
        f"needed, {remedy}"
    )
