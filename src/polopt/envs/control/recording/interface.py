"""The interface of recorders: one environment, and the record of its episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from polopt.envs.control.interface import Environments


class Watch(Protocol):
    """One environment, and the record of its episode."""

    @property
    def environments(self) -> Environments:
        """The environment that is recorded, alone."""
        ...

    def look(self) -> None:
        """Record the environment as it is now; called after the reset and after every step."""
        ...

    def told(self, actions: NDArray[Any]) -> Mapping[str, Any]:
        """The record of the episode of ``actions`` [T] or [T, D], for JSON."""
        ...
