"""A tanh-squashed Gaussian whose σ does not depend on the state: actions within their bounds.

The stored action is u, before the tanh, so that no inverse is needed. Log-probs are those of
tanh u in [-1, 1]^D; the change to the units of the environment is a constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.math.pathwise import log_tanh_slope, tanh_gaussian
from polopt.roles.policies import gaussian, squashed
from polopt.roles.policies.gaussian import distribution as distribution
from polopt.roles.policies.gaussian import divergence as divergence  # the tanh leaves it as it is
from polopt.roles.policies.gaussian import mode as mode
from polopt.roles.policies.gaussian import sample as sample

_NODES, _WEIGHTS = (
    torch.from_numpy(x.astype(np.float32)) for x in np.polynomial.hermite_e.hermegauss(20)
)


def log_prob(parameters: Tensor, actions: Tensor) -> Tensor:
    """Log π(tanh u): parameters [..., 2D], actions u [..., D]."""
    mean, log_std = parameters.chunk(2, -1)
    return tanh_gaussian(actions, mean, log_std)[1]


def entropy(parameters: Tensor) -> Tensor:
    """``H(u) + E[log |d tanh u / du|]``, [...]; the mean by Gauss-Hermite quadrature, 20 nodes."""
    mean, log_std = parameters.chunk(2, -1)
    u = mean[..., None] + log_std.exp()[..., None] * _NODES.to(mean)
    slope = (log_tanh_slope(u) * (_WEIGHTS / _WEIGHTS.sum()).to(mean)).sum((-2, -1))
    return gaussian.entropy(parameters) + slope


def moved(actions: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[Any]:
    """``tanh u`` in the bounds of the environment."""
    return squashed.moved(np.tanh(actions), low, high)
