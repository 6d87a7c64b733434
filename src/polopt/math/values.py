"""The loss of a critic: the squared error of its values, optionally clipped."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.reduce import masked


def value_loss(
    values: Float[Tensor, "B T"],
    values_old: Float[Tensor, "B T"],
    targets: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float | None = None,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """``½·max((V-R)², (V_old + clip(V-V_old, -ε, ε) - R)²)``; without ``clip`` the first alone.

    From OpenAI baselines' code, not from the equations of PPO. Targets are constants.

    Returns:
        The loss per token, and where the clipped branch won (gradient 0 there).
    """
    values, values_old = masked(values, mask), masked(values_old, mask)
    targets = masked(targets, mask).detach()
    free = (values - targets).square() / 2.0
    if clip is None:
        return free, torch.zeros_like(mask)
    near = values_old + (values - values_old).clamp(-clip, clip)
    bounded = (near - targets).square() / 2.0
    bites = bounded > free
    return torch.where(bites, bounded, free), bites
