"""Pictures on machines without a screen."""

from __future__ import annotations

import os
import sys


def draw_without_screen() -> None:
    """Have MuJoCo draw by EGL where there is no screen and ``MUJOCO_GL`` is not set.

    Call it before the first picture, not before MuJoCo is imported: where there is no EGL, physics
    must not fail for it.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        os.environ.setdefault("MUJOCO_GL", "egl")
