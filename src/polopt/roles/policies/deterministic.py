"""A deterministic policy; its parameters are the action before its tanh."""

from __future__ import annotations

import torch
from torch import Tensor

from polopt.roles.policies.squashed import moved as moved  # to the bounds of the environment


def sample(parameters: Tensor, generator: torch.Generator) -> Tensor:
    """The mode: a deterministic policy has no distribution."""
    return mode(parameters)


def mode(parameters: Tensor) -> Tensor:
    """``μ = tanh z``, [..., D]."""
    return parameters.tanh()
