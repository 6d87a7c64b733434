"""One environment whose episode is recorded while somebody acts in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from polopt.envs.control.interface import Environments


class Watch(Protocol):
    """One environment, and what is noted of it."""

    @property
    def environments(self) -> Environments:
        """Just one."""
        ...

    def look(self) -> None:
        """Note what there is to see now."""
        ...

    def told(self, actions: NDArray[Any]) -> Mapping[str, Any]:
        """All that was noted of an episode by ``actions`` [T] or [T, D], as JSON has it."""
        ...
