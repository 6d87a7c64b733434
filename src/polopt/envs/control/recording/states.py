"""Records the states of a built-in environment, from which its dynamics make a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.arrays import ArrayEnvironments, Dynamics
from polopt.envs.control.interface import Environments
from polopt.envs.control.recording.view import InTerms, Viewed, as_json, rounded


class StateWatch:
    """Records states, of which the dynamics make a drawing, series, and terms of the reward."""

    def __init__(self, dynamics: Dynamics) -> None:
        self._dynamics = dynamics
        self._one = ArrayEnvironments(dynamics, 1)
        self._states: list[NDArray[np.float64]] = []

    @property
    def environments(self) -> Environments:
        """The environment that is recorded, alone."""
        return self._one

    def look(self) -> None:
        """Record the state that the last step led to."""
        self._states.append(self._one.reached[0])

    def told(self, actions: NDArray[Any]) -> Mapping[str, Any]:
        """Drawing, series and terms of the reward, of dynamics that have them."""
        states, dynamics, found = np.stack(self._states), self._dynamics, dict[str, Any]()
        if isinstance(dynamics, Viewed):
            found |= {"seconds": dynamics.seconds, **as_json(dynamics.view(states, actions))}
        if isinstance(dynamics, InTerms):
            terms = dynamics.terms(states, actions)
            found["terms"] = {name: rounded(values) for name, values in terms.items()}
        return found
