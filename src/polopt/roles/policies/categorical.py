"""A policy over actions 0 to n - 1; its parameters are logits."""

from __future__ import annotations

import torch
from torch import Tensor

from polopt.math.divergence import kl_divergence_of_logs


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Log π(a|s): logits [..., n], actions [...] of integers."""
    return torch.log_softmax(logits, -1).gather(-1, actions[..., None])[..., 0]


def entropy(logits: Tensor) -> Tensor:
    """``-Σ p log p`` in nats, [...]."""
    logp = torch.log_softmax(logits, -1)
    return -(logp.exp() * logp).sum(-1)


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of each row, [...]; the largest of the logits with Gumbel noise."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return (logits - (-uniform.log()).log()).argmax(-1)


def mode(logits: Tensor) -> Tensor:
    """The most likely action."""
    return logits.argmax(-1)


def distribution(logits: Tensor) -> Tensor:
    """All of log π(·|s), [..., n]: what :func:`divergence` compares."""
    return torch.log_softmax(logits, -1)


divergence = kl_divergence_of_logs
