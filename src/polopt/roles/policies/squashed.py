"""A tanh-squashed Gaussian (SAC); its parameters, mean and log σ, both depend on the state.

Actions and their stored values lie in [-1, 1]. Log-probs are those of these actions, not of the
environment's: the change of units is a constant, the same in every state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.math.pathwise import tanh_gaussian

LEAST, MOST = -20.0, 2.0  # of the log standard deviation (SAC)


def draw(parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``tanh(μ + σ·N(0, 1))`` [..., D] and its log-prob [...], both differentiable."""
    mean, log_std = parameters.chunk(2, -1)
    log_std = log_std.clamp(LEAST, MOST)
    noise = torch.randn(mean.shape, generator=generator)
    return tanh_gaussian(mean + log_std.exp() * noise, mean, log_std)


def sample(parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Draws [..., D] of parameters [..., 2D]."""
    return draw(parameters, generator)[0]


def mode(parameters: Tensor) -> Tensor:
    """``tanh μ``, the median."""
    return parameters.chunk(2, -1)[0].tanh()


def moved(actions: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[Any]:
    """From [-1, 1] to the bounds of the environment."""
    least, most = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return np.clip(least + (actions + 1) * (0.5 * (most - least)), least, most)
