"""Return estimators: what each token is credited with before a baseline, and a critic's targets."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from polopt.math import returns
from polopt.types import Experience

Returns = Callable[[Tensor, Experience, Tensor], tuple[Tensor, Tensor]]


def outcome(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the row's rewards on every token: the response is one action."""
    psi = returns.outcome(rewards, mask)
    return psi, psi


def reward_to_go(gamma: float = 1.0) -> Returns:
    """``Gₜ = Σ_{k≥t} γ^{k-t} r_k``."""

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        psi = returns.reward_to_go(rewards, mask, gamma)
        return psi, psi

    return estimate


def full(gamma: float = 1.0) -> Returns:
    """``Σ_k γᵏ r_k`` on every token."""

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        psi = returns.full_return(rewards, mask, gamma)
        return psi, psi

    return estimate


def gae(gamma: float = 1.0, lam: float = 0.95) -> Returns:
    """GAE on ``experience.values``: Ψ is the advantage already, the targets are ``A + V``."""

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        if experience.values is None:
            raise ValueError("GAE reads values; the experience has none")
        return returns.token_gae(
            rewards, experience.values, mask, gamma, lam, experience.last_values
        )

    return estimate
