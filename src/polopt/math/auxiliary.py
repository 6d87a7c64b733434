"""Terms that stand beside the policy loss."""

from jaxtyping import Bool, Float
from torch import Tensor

from polopt.math.preference import implicit_reward
from polopt.math.reduce import lengths, token_mean, weighted_sum


def regularised_reward(
    rewards: Float[Tensor, "B"],
    logp: Float[Tensor, "B"],
    logp_ref: Float[Tensor, "B"],
    beta: float,
) -> Float[Tensor, ""]:
    """``E[r - β·log(π/π_SFT)]`` of response log-probs (InstructGPT 2203.02155, Eq. 2)."""
    return (rewards - implicit_reward(logp, logp_ref, beta)).mean()


def negative_log_likelihood(
    logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Token mean of ``-log π``; the PPO-ptx term is ``ptx_coef`` times this on pretraining text."""
    return weighted_sum(-logp, token_mean(mask, lengths(mask), None, logp.dtype), mask)
