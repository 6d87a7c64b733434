"""The reward of the two-legged walking robot."""

import torch
from jaxtyping import Float
from torch import Tensor

BIPED_PRESETS: dict[str, dict[str, float]] = {
    # MathWorks, "Train Biped Robot to Walk Using Reinforcement Learning Agents"
    "toolbox": {"sideways_cost": 3.0, "height_cost": 50.0, "effort_cost": 0.02},
    # github.com/mathworks-robotics/msra-walking-robot, commit b2e17fae
    "github2d": {"sideways_cost": 1.5, "height_cost": 25.0, "effort_cost": 0.05},
    "github3d": {"sideways_cost": 1.5, "height_cost": 25.0, "effort_cost": 0.03},
    # ours: with the terms of polopt.math.gait
    "walk": {"sideways_cost": 3.0, "height_cost": 50.0, "effort_cost": 0.02},
}


def biped_terms(
    forward_speed: Float[Tensor, "B"],
    sideways: Float[Tensor, "B"],
    height_error: Float[Tensor, "B"],
    torques: Float[Tensor, "B D"],
    step_seconds: float,
    episode_seconds: float,
    *,
    sideways_cost: float,
    height_cost: float,
    effort_cost: float,
    alive_bonus: float = 25.0,
) -> dict[str, Float[Tensor, "B"]]:
    """The terms of ``v_x - c_y·y² - c_z·ẑ² + c_a·Ts/Tf - c_u·Σ uᵢ²`` by name; they add up to it.

    Args:
        forward_speed: v_x in m/s.
        sideways: y in m.
        height_error: ẑ, height of the torso less its reference, in m.
        torques: The previous action, normalised to [-1, 1].
        step_seconds: Ts.
        episode_seconds: Tf; a full episode earns ``alive_bonus`` for not having fallen.
        sideways_cost: c_y in 1/m²; the costs are one of ``BIPED_PRESETS``.
        height_cost: c_z in 1/m².
        effort_cost: c_u.
        alive_bonus: c_a.
    """
    return {
        "forward speed": forward_speed,
        "off the line": -sideways_cost * sideways.square(),
        "off its height": -height_cost * height_error.square(),
        "not falling": torch.full_like(forward_speed, alive_bonus * step_seconds / episode_seconds),
        "effort": -effort_cost * torques.square().sum(-1),
    }
