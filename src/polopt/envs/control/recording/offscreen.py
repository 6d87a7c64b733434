"""Rendering without a screen."""

from __future__ import annotations

import os
import sys


def draw_without_screen() -> None:
    """Have MuJoCo render by EGL where there is no screen and ``MUJOCO_GL`` is not set.

    Call it before the first picture, but after MuJoCo is imported: with the variable set, the
    import fails where there is no EGL, and physics needs none.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        os.environ.setdefault("MUJOCO_GL", "egl")
