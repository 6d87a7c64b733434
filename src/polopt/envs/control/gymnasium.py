"""Any environment of gymnasium, in every mode in which its vectors begin the next episode.

Since gymnasium 1.0 a vector environment may reset in the step after an episode ended (NEXT_STEP,
the default: that step does nothing and is not valid), in the same step (SAME_STEP: the final
observation stands in ``info``), or when it is told to (DISABLED). All three become one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.interface import Action, Box, Discrete, Transition
from polopt.errors import MissingExtraError, RecipeError, one_line


def make(name: str, count: int, parameters: Mapping[str, Any]) -> GymnasiumEnvironments:
    """``count`` environments of that id.

    Raises:
        MissingExtraError: gymnasium, or what the environment needs, is not installed.
        RecipeError: there is no such environment, it does not take the parameters, or its
            observations or actions are of a kind that no policy here has.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtraError(_needs(name, "gymnasium is not installed")) from error
    try:
        vector = gymnasium.make_vec(name, num_envs=count, **parameters)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtraError(_needs(name, one_line(error))) from error
    except gymnasium.error.UnregisteredEnv as error:
        near = get_close_matches(name, gymnasium.registry, n=1)
        advice = f"did you mean {near[0]}?" if near else "an id of gymnasium, or a built-in one"
        raise RecipeError(f"data.source: {name!r} is not allowed; {advice}") from error
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise RecipeError(f"data.source: {name!r}: {one_line(error)}") from error
    return GymnasiumEnvironments(vector)


def _needs(name: str, reason: str) -> str:
    return f"data.source: {name!r}: {reason}; pip install 'polopt[control]'"


class GymnasiumEnvironments:
    """A vector environment of gymnasium; observations are flattened to numbers."""

    def __init__(self, vector: Any) -> None:  # noqa: ANN401
        import gymnasium

        self._vector = vector
        self._mode = vector.metadata["autoreset_mode"].name
        self._ended = np.zeros(vector.num_envs, dtype=np.bool_)
        self._space = vector.single_observation_space
        if not isinstance(self._space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            kind = type(self._space).__name__
            raise RecipeError(
                f"data.source: {self._name} observes a {kind}; a Box or a Discrete is needed"
            )
        self._flat: int = gymnasium.spaces.flatdim(self._space)
        self._action = _action(vector.single_action_space, self._name)

    @property
    def _name(self) -> str:
        spec = self._vector.spec
        return type(self._vector).__name__ if spec is None else str(spec.id)

    @property
    def count(self) -> int:
        """N."""
        return int(self._vector.num_envs)

    @property
    def seconds(self) -> float | None:
        """Of a step; None: the environment does not say."""
        per_second = self._vector.metadata.get("render_fps")
        return None if not per_second else 1 / float(per_second)

    def picture(self) -> NDArray[np.uint8] | None:
        """The first one as it looks, [H, W, 3]; made with ``render_mode = "rgb_array"``."""
        pictures = self._vector.render()
        return None if pictures is None else pictures[0]

    @property
    def observation_size(self) -> int:
        """O."""
        return self._flat

    @property
    def action(self) -> Action:
        """What an action is."""
        return self._action

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Begin an episode in each, environment i with the seed ``seed + i``."""
        observations, _ = self._vector.reset(seed=seed)
        self._ended = np.zeros(self.count, dtype=np.bool_)
        return self._flattened(observations)

    def step(self, actions: NDArray[Any]) -> Transition:
        """One step in each."""
        raw, rewards, terminated, truncated, info = self._vector.step(actions)
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
                    again, _ = self._vector.reset(options={"reset_mask": ended})
                    observations = np.where(ended[:, None], self._flattened(again), successors)
            case _:
                valid = ~self._ended  # this step began an episode and took no action
                self._ended = ended
        return Transition(
            observations,
            successors,
            np.asarray(rewards, dtype=np.float64),
            np.asarray(terminated, dtype=np.bool_),
            np.asarray(truncated, dtype=np.bool_),
            valid,
        )

    def state_dict(self) -> None:
        """An environment of gymnasium cannot say where it stands."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was saved."""
        raise ValueError("environments of gymnasium have no state to load")

    def _flattened(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """[N, O]; a number among n becomes n flags."""
        if observations.ndim == 1 and self._flat > 1:
            return np.eye(self._flat, dtype=np.float32)[observations.astype(np.int64)]
        return observations.reshape(len(observations), -1).astype(np.float32)


def _action(space: Any, name: str) -> Action:  # noqa: ANN401
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        if int(space.start) != 0:
            raise RecipeError(
                f"data.source: {name} has actions from {space.start}; they must begin at 0"
            )
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
        return Box(space.low.reshape(-1).astype(np.float32), space.high.reshape(-1))
    raise RecipeError(
        f"data.source: {name} has actions of the kind {space}; a Discrete or a bounded Box is "
        "needed"
    )
