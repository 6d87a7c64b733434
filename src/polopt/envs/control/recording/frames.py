"""Records pictures of an environment of gymnasium, where it can be rendered."""

from __future__ import annotations

import base64
import io
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.envs.control.gymnasium import THEIRS, make
from polopt.envs.control.interface import Environments
from polopt.envs.control.recording.offscreen import draw_without_screen
from polopt.errors import one_line

SLOWEST = 1 / 12  # seconds between two pictures, at least
MOST, SIDE = 100, 180  # pictures; pixels of the longer side of one
COLUMNS, QUALITY, EFFORT = 10, 50, 4  # of the sheet; more effort takes twice as long for 0.5 %


class FrameWatch:
    """Records pictures of one environment, or the reason why it cannot be rendered."""

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._why, self._looks = "", 0
        self._pictures: list[NDArray[np.uint8]] = []
        draw_without_screen()
        try:
            with warnings.catch_warnings(action="ignore"):  # of gymnasium: it cannot be drawn
                self._one = make(name, 1, {**parameters, "render_mode": "rgb_array"})
            _lighten(self._one.first)
        except THEIRS as error:  # any error: the episode is recorded without pictures
            self._why = one_line(error) or type(error).__name__
            self._one = make(name, 1, parameters)

    @property
    def environments(self) -> Environments:
        """The environment that is recorded, alone."""
        return self._one

    @property
    def _every(self) -> int:
        """Steps from one picture to the next."""
        return max(1, round(SLOWEST / (self._one.seconds or SLOWEST)))

    def look(self) -> None:
        """Take a picture where one is due: at most one in a twelfth of a second, 100 in all."""
        due = self._looks % self._every == 0 and len(self._pictures) < MOST
        self._looks += 1
        if self._why or not due:
            return
        try:
            self._pictures.append(_smaller(self._one.picture()))
        except THEIRS as error:  # a driver may fail in any way
            self._why = one_line(error) or type(error).__name__

    def told(self, actions: NDArray[Any]) -> Mapping[str, Any]:
        """The pictures as one sheet, or why there are none."""
        found: dict[str, Any] = {} if self._one.seconds is None else {"seconds": self._one.seconds}
        if self._why:
            return found | {"no_frames": self._why}
        height, width, _ = self._pictures[0].shape
        sheet = _sheet(self._pictures)
        return found | {
            "frames": {
                "image": sheet,
                "count": len(self._pictures),
                "columns": COLUMNS,
                "width": width,
                "height": height,
                "every": self._every,
            }
        }


def _lighten(environment: Any) -> None:  # noqa: ANN401
    """Have MuJoCo render at twice the shown size, without shadows and reflections: 10 times faster.

    On a CPU, a picture of 480 pixels with both takes 0.1 s. Physics does not change; an environment
    that has rendered already, such as one that observes pictures, is left alone.
    """
    renderer: Any = getattr(environment, "mujoco_renderer", None)
    rendering: Any = sys.modules.get("gymnasium.envs.mujoco.mujoco_rendering")
    if rendering is None or not isinstance(renderer, rendering.MujocoRenderer) or renderer.viewer:
        return
    model = renderer.model
    model.light_castshadow[:], model.mat_reflectance[:] = 0, 0
    model.vis.quality.offsamples = 0  # made smaller, a picture has smooth edges anyway
    scale = min(1.0, 2 * SIDE / max(renderer.width, renderer.height))
    renderer.width, renderer.height = (round(scale * n) for n in (renderer.width, renderer.height))


def _smaller(picture: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if picture is None:
        raise ValueError("the environment draws none")
    image: Any = import_module("PIL.Image")
    one = image.fromarray(picture)
    one.thumbnail((SIDE, SIDE))
    return np.asarray(one)


def _sheet(pictures: list[NDArray[np.uint8]]) -> str:
    """All pictures in one WebP image, row by row, as a data URI."""
    image: Any = import_module("PIL.Image")
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // COLUMNS)
    sheet = image.new("RGB", (COLUMNS * width, rows * height))
    for i, picture in enumerate(pictures):
        sheet.paste(image.fromarray(picture), (i % COLUMNS * width, i // COLUMNS * height))
    held = io.BytesIO()
    sheet.save(held, "WEBP", quality=QUALITY, method=EFFORT)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"
