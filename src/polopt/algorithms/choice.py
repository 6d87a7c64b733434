"""What stands behind one string of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One entry of a column: ``Choice("polopt.math.divergence:k3", "e^-d - 1 + d")``."""

    function: str  # module:name
    equation: str
    formula: str = ""  # module:name; default: the function itself
    arguments: Mapping[str, str] | None = None  # of the function: the fields that they come from
    factory: bool = False  # called with the arguments; otherwise they are bound to it
    adapter: str | None = None  # module:name, makes of it what the column is a choice of

    @property
    def file(self) -> str:
        """Where the mathematics stands, from the root of the repository."""
        module = (self.formula or self.function).partition(":")[0]
        return f"src/{module.replace('.', '/')}.py"
