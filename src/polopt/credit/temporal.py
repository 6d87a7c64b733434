"""Return estimators: the return of each token before a baseline, and value targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from polopt.math import process, returns
from polopt.math.reduce import masked, row_sum
from polopt.types import Experience

Returns = Callable[[Tensor, Experience, Tensor], tuple[Tensor, Tensor]]
"""``(r_tok, experience, mask) -> (Ψ[B, T], value targets[B, T])``."""


def outcome(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the rewards of the row on every token: the response is one action."""
    psi = returns.outcome(rewards, mask)
    return psi, psi


def ones(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
    """1 on every token: the policy gradient becomes the gradient of the likelihood."""
    psi = mask.to(rewards.dtype)
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


def gae(
    gamma: float = 1.0,
    lam: float | None = 0.95,
    *,
    critic_lam: float | None = None,
    length_adaptive: float | None = None,
    bootstrap_truncated: bool | None = False,
) -> Returns:
    """GAE on ``experience.values``: Ψ is the advantage already, the targets are ``A + V``.

    Args:
        gamma: Discount.
        lam: λ of the advantage.
        critic_lam: λ of the targets, if it is another one (VC-PPO 2503.01491).
        length_adaptive: α of ``λ = 1 - 1/(α·length)`` in the place of ``lam`` (VAPO 2504.05118).
        bootstrap_truncated: A response that was cut ends with the value of its last state; by
            default it ends like one that stopped, with 0.
    """

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        values = experience.values
        if values is None:
            raise ValueError("GAE reads values; the experience has none")
        last = _after_truncation(experience) if bootstrap_truncated else None
        trace: float | Tensor
        if length_adaptive is not None:
            trace = returns.length_adaptive_lambda(mask.sum(-1).to(values.dtype), length_adaptive)
        else:
            assert lam is not None, "resolved"
            trace = lam
        psi, targets = returns.token_gae(rewards, values, mask, gamma, trace, last)
        if critic_lam is not None and (length_adaptive is not None or critic_lam != lam):
            _, targets = returns.token_gae(rewards, values, mask, gamma, critic_lam, last)
        return psi, targets

    return estimate


def step_gae(gamma: float = 0.99, lam: float = 0.95, *, critic_lam: float | None = None) -> Returns:
    """GAE of control: values of the true successor; termination and truncation differ.

    A step that only began an episode (a reset) is outside the mask and is skipped.
    """

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        values, following = experience.values, experience.next_values
        terminated, cut = experience.terminated, experience.cut
        if values is None or following is None or terminated is None or cut is None:
            raise ValueError("GAE of steps reads values, next_values, terminated and cut")
        steps = (rewards, values, following, terminated, cut, gamma)
        psi, targets = returns.step_gae(*steps, lam, mask)
        if critic_lam is not None and critic_lam != lam:
            _, targets = returns.step_gae(*steps, critic_lam, mask)
        return psi, targets

    return estimate


def step_action_value(gamma: float = 0.99) -> Returns:
    """``Ψₜ = Q(sₜ, aₜ)`` of control, which learns ``rₜ + γ·E_π Q(sₜ₊₁, a)``: expected SARSA.

    ``next_values`` are the mean of Q over the actions of the policy in the true successor, so that
    a batch may end anywhere (van Seijen et al. 2009).
    """
    targets_of = step_gae(gamma, 0.0)

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        _, targets = targets_of(rewards, experience, mask)
        assert experience.values is not None
        return masked(experience.values, mask), targets

    return estimate


def action_value(gamma: float = 1.0) -> Returns:
    """``Ψₜ = Q(sₜ, aₜ)`` and its SARSA target ``rₜ + γ·Q(sₜ₊₁, aₜ₊₁)``, Q in the place of V."""

    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        if experience.values is None:
            raise ValueError("the action value reads values; the experience has none")
        _, targets = returns.token_gae(rewards, experience.values, mask, gamma, 0.0)
        return masked(experience.values, mask), targets

    return estimate


def prime(
    gamma: float = 1.0, process_coefficient: float = 1.0, outcome_coefficient: float = 1.0
) -> Returns:
    """Process and outcome rewards, each minus its mean over the other responses (PRIME, Eq. 5).

    The process reward is ``experience.process``, the outcome the sum of the shaped rewards. Ψ is
    the advantage already.
    """
    advantage = partial(
        process.prime_advantage,
        gamma=gamma,
        process_coefficient=process_coefficient,
        outcome_coefficient=outcome_coefficient,
    )
    return _of_two_streams(lambda q, mask: q, advantage)


def prime_reference(
    gamma: float = 1.0, process_coefficient: float = 1.0, outcome_coefficient: float = 1.0
) -> Returns:
    """The same as in PRIME's released code, without the whitening that follows there."""
    advantage = partial(
        process.prime_reference_advantage,
        gamma=gamma,
        process_coefficient=process_coefficient,
        outcome_coefficient=outcome_coefficient,
    )
    return _of_two_streams(process.prime_batch_norm, advantage)


def _of_two_streams(
    scale: Callable[[Tensor, Tensor], Tensor], advantage: Callable[..., Tensor]
) -> Returns:
    def estimate(rewards: Tensor, experience: Experience, mask: Tensor) -> tuple[Tensor, Tensor]:
        if experience.process is None:
            raise ValueError("PRIME's advantage reads process; the experience has none")
        q, outcome = scale(experience.process, mask), row_sum(rewards, mask)
        psi = advantage(q, outcome, mask, experience.group)
        return psi, psi

    return estimate


def _after_truncation(experience: Experience) -> Tensor:
    """V after the last token of rows that were cut, 0 of those that ended."""
    if experience.last_values is None or experience.truncated is None:
        raise ValueError("bootstrapping reads last_values and truncated; one of them is missing")
    return masked(experience.last_values, experience.truncated)
