"""A diagonal Gaussian policy; its parameters are mean and log standard deviation, side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.math.divergence import gaussian_kl_divergence

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def log_prob(parameters: Tensor, actions: Tensor) -> Tensor:
    """``Σ log N(a; μ, σ)``: parameters [..., 2D], actions [..., D]."""
    mean, log_std = parameters.chunk(2, -1)
    z = (actions - mean) * (-log_std).exp()
    return -(z.square() / 2 + log_std + HALF_LOG_TAU).sum(-1)


def entropy(parameters: Tensor) -> Tensor:
    """``Σ (log σ + ½ log 2πe)``, [...]."""
    log_std = parameters.chunk(2, -1)[1]
    return (log_std + 0.5 + HALF_LOG_TAU).sum(-1)


def sample(parameters: Tensor, generator: torch.Generator) -> Tensor:
    """``μ + σ·N(0, 1)``, [..., D]."""
    mean, log_std = parameters.chunk(2, -1)
    return mean + log_std.exp() * torch.randn(mean.shape, generator=generator)


def mode(parameters: Tensor) -> Tensor:
    """The mean μ, [..., D]."""
    return parameters.chunk(2, -1)[0]


def distribution(parameters: Tensor) -> Tensor:
    """Mean and log standard deviation as they are, [..., 2D]: what :func:`divergence` compares."""
    return parameters


def divergence(old: Tensor, new: Tensor) -> Tensor:
    """``KL(old‖new)``, [...]."""
    (mean, log_std), (new_mean, new_log_std) = old.chunk(2, -1), new.chunk(2, -1)
    return gaussian_kl_divergence(mean, log_std, new_mean, new_log_std)


def moved(actions: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[Any]:
    """Clipped to the bounds of the environment."""
    return np.clip(actions, np.asarray(low, np.float32), np.asarray(high, np.float32))
