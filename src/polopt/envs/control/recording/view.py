"""The view of an episode: a drawing of shapes between named points, and series over time.

An environment describes its episodes in these terms; pages draw them without knowing which
environment it is. Lengths in metres, x to the right, y up. An episode of T steps has F = T + 1
moments; what belongs to the step that begins at a moment has T values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.interface import Floats

Tone = Literal["body", "first", "second", "force", "faint", "hollow"]

DIGITS = 5  # significant digits of recorded numbers


@dataclass(frozen=True)
class Shape:
    """One shape of the drawing; later ones lie on earlier ones.

    A ``line`` runs along its points and an ``area`` lies between them, with a rim of ``size``; a
    ``disc`` and an ``arc`` are about one point, an ``arrow`` begins there and points along x.
    """

    kind: Literal["line", "area", "disc", "arc", "arrow"]
    points: tuple[str, ...]
    tone: Tone = "body"
    size: float = 0.02  # width of a line, radius of a disc or an arc, length of an arrow at 1
    amount: str = ""  # in View.amounts, -1 to 1: scales arc and arrow; other shapes show while > 0


@dataclass(frozen=True)
class Panel:
    """Series over time on one scale; with ``bars``, the times at which each is above 0."""

    title: str
    unit: str
    lines: Mapping[str, Floats]  # [F] or [T], by label
    sentence: str = ""  # that explains it
    bars: bool = False


@dataclass(frozen=True)
class View:
    """Drawing and series of one episode."""

    window: tuple[float, float, float, float] = (-1.0, 1.0, -1.0, 1.0)  # left, right, bottom, top
    shapes: tuple[Shape, ...] = ()
    points: Mapping[str, Floats] = field(default_factory=dict[str, Floats])  # [F, 2]; [2]: fixed
    amounts: Mapping[str, Floats] = field(default_factory=dict[str, Floats])  # [F] or [T]
    panels: tuple[Panel, ...] = ()
    follows: str = ""  # the window moves with the x of this point
    ground: bool = False  # a floor with a scale, at a height of 0


@runtime_checkable
class Viewed(Protocol):
    """Dynamics that can be drawn."""

    @property
    def seconds(self) -> float:
        """The duration of a step."""
        ...

    def view(self, states: NDArray[np.float64], actions: NDArray[Any]) -> View:
        """The view of an episode through ``states`` [F, S] by ``actions`` [T] or [T, D]."""
        ...


@runtime_checkable
class InTerms(Protocol):
    """Dynamics whose reward is a sum of named terms."""

    def terms(
        self, states: NDArray[np.float64], actions: NDArray[Any]
    ) -> Mapping[str, NDArray[np.float64]]:
        """The terms [T] of the rewards of an episode; their sum is the reward."""
        ...


def as_json(view: View) -> dict[str, Any]:
    """The view as JSON."""
    return {
        "drawing": {
            "window": list(view.window),
            "shapes": [{k: v for k, v in vars(shape).items() if v != ""} for shape in view.shapes],
            "points": {name: rounded(at) for name, at in view.points.items()},
            "amounts": {name: rounded(values) for name, values in view.amounts.items()},
            "follows": view.follows,
            "ground": view.ground,
        },
        "panels": [
            {
                "title": panel.title,
                "unit": panel.unit,
                "sentence": panel.sentence,
                "bars": panel.bars,
                "lines": {label: rounded(values) for label, values in panel.lines.items()},
            }
            for panel in view.panels
        ],
    }


def rounded(values: NDArray[Any]) -> list[Any]:
    """A list for JSON, to ``DIGITS`` significant digits of the largest number."""
    if values.dtype.kind in "iu":
        return values.tolist()
    exact = values.astype(np.float64)
    largest = float(np.abs(exact).max(initial=0.0))
    places = DIGITS - 1 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    return np.round(exact, max(0, places)).tolist()
