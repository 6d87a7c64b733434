"""The reward of the robot, and the terms that a gait adds to it, as functions of tensors [B]."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BIPED_PRESETS: dict[str, dict[str, float]] = {
    # MathWorks, "Train Biped Robot to Walk Using Reinforcement Learning Agents"
    "toolbox": {"sideways_cost": 3.0, "height_cost": 50.0, "effort_cost": 0.02},
    # github.com/mathworks-robotics/msra-walking-robot, commit b2e17fae
    "github2d": {"sideways_cost": 1.5, "height_cost": 25.0, "effort_cost": 0.05},
    "github3d": {"sideways_cost": 1.5, "height_cost": 25.0, "effort_cost": 0.03},
    # ours: with the terms of a gait
    "walk": {"sideways_cost": 3.0, "height_cost": 50.0, "effort_cost": 0.02},
}

GAIT_PRESETS: dict[str, dict[str, float]] = {
    "walk": {
        "enough_speed": 0.4,
        "flight_cost": 0.25,
        "swing_bonus": 4.0,
        "least_swing": 0.1,
        "longest_swing": 0.3,
        "stride_bonus": 20.0,
        "longest_stride": 0.1,
        "clearance_bonus": 0.4,
        "enough_clearance": 0.015,
        "change_cost": 0.02,
    },
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
    """The reward ``v_x - c_y·y² - c_z·ẑ² + c_a·Ts/Tf - c_u·Σ uᵢ²`` as its terms by name.

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


def gait_terms(
    forward_speed: Float[Tensor, "B"],
    contacts: Bool[Tensor, "B 2"],
    swing: Float[Tensor, "B 2"],
    clearance: Float[Tensor, "B 2"],
    began: Float[Tensor, "B 2"],
    ahead: Float[Tensor, "B 2"],
    torques: Float[Tensor, "B D"],
    torques_before: Float[Tensor, "B D"],
    *,
    enough_speed: float,
    flight_cost: float,
    swing_bonus: float,
    least_swing: float,
    longest_swing: float,
    stride_bonus: float,
    longest_stride: float,
    clearance_bonus: float,
    enough_clearance: float,
    change_cost: float,
) -> dict[str, Float[Tensor, "B"]]:
    """Further terms of the reward by name; a foot lands when it touches the floor after a swing.

    - too fast: ``-max(0, v_x - v*)``, so that speed beyond v* earns nothing more
    - flight: ``-c_f`` with neither foot on the floor (Rudin et al. 2022, arXiv:2109.11978, code)
    - swing: ``c_s (min(t, t_max) - t_min)`` for each foot that lands: its seconds in the air,
      negative for feet that chatter (feet air time of the same code)
    - stride: ``c_l clip(min(x, -x'), ±l*)`` for each foot that lands: positive where it went from
      behind the other to in front of it, negative where it stayed in front or behind
    - clearance: ``c_h min(h, h*) / h*`` for each foot that lands: the greatest height of its sole
    - jerks: ``-c_u Σ (uᵢ - u'ᵢ)²``

    Args:
        forward_speed: v_x in m/s.
        contacts: whether the right and the left foot touch the floor.
        swing: t, seconds that each foot has been off the floor, kept in the step in which it
            lands; 0 while it stands.
        clearance: h in m, the greatest height of the sole in this swing, kept the same way.
        began: x' in m, how far in front of the other the foot was when it was lifted.
        ahead: x in m, how far in front of the other it landed.
        torques: u, the action of this step.
        torques_before: u', the action of the step before.
        enough_speed: v* in m/s.
        flight_cost: c_f.
        swing_bonus: c_s in 1/s.
        least_swing: t_min in s.
        longest_swing: t_max in s.
        stride_bonus: c_l in 1/m.
        longest_stride: l* in m.
        clearance_bonus: c_h.
        enough_clearance: h* in m.
        change_cost: c_u.
    """
    landed = contacts & (swing > 0)
    airtime = swing.clamp(max=longest_swing) - least_swing
    passed = torch.minimum(ahead, -began).clamp(-longest_stride, longest_stride)
    raised = clearance.clamp(max=enough_clearance) / enough_clearance
    return {
        "too fast": -(forward_speed - enough_speed).clamp(min=0.0),
        "flight": -flight_cost * (~contacts.any(-1)).to(forward_speed),
        "swing": swing_bonus * (airtime * landed).sum(-1),
        "stride": stride_bonus * (passed * landed).sum(-1),
        "clearance": clearance_bonus * (raised * landed).sum(-1),
        "jerks": -change_cost * (torques - torques_before).square().sum(-1),
    }
