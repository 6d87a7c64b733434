"""Formulas of golden cases that no method of polopt uses."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.math.baselines import has_peers
from polopt.math.preference import dpo_loss, has_pair, implicit_reward, pairwise_loss
from polopt.math.ratios import safe_exp, token_log_ratio
from polopt.math.reduce import lengths, masked, token_mean, weighted_sum, widen


def raw_singletons(
    advantages: Float[Tensor, "B"],
    rewards: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    valid: Bool[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """The advantage of a group of one is its raw reward: the convention of verl (mean 0, std 1)."""
    return torch.where(valid & ~has_peers(group, valid), widen(rewards), advantages)


def var_clamp(variance: Float[Tensor, "*shape"], eps: float) -> Float[Tensor, "*shape"]:
    """``√max(var, ε)`` (OpenRLHF)."""
    return variance.clamp(min=eps).sqrt()


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


def preference_logits(
    chosen: Float[Tensor, "N"],
    rejected: Float[Tensor, "N"],
    chosen_ref: Float[Tensor, "N"],
    rejected_ref: Float[Tensor, "N"],
) -> Float[Tensor, "N"]:
    """``h = (log π - log π_ref)(y_w) - (log π - log π_ref)(y_l)`` of response log-probs."""
    won = implicit_reward(chosen, chosen_ref, 1.0)
    return won - implicit_reward(rejected, rejected_ref, 1.0)


def dpo_gradient_weight(logits: Float[Tensor, "N"], *, beta: float) -> Float[Tensor, "N"]:
    """``β·σ(-βh)``: the weight of a pair in DPO's gradient; near 0 where h is large already."""
    return beta * torch.sigmoid(-beta * logits)


def ranking_loss(
    scores: Float[Tensor, "N"],
    ranks: Float[Tensor, "N"],
    group: Int[Tensor, "N"],
    margin: float = 0.0,
) -> tuple[Float[Tensor, "P"], Float[Tensor, ""]]:
    """``-(1/pairs)Σ_{i≻j} log σ(rᵢ - rⱼ - m)`` per prompt, then the mean over prompts.

    InstructGPT 2203.02155, Eq. 1; K = 2 is Stiennon 2009.01325; margin of Llama 2 (2307.09288).
    Ties make no pair. A prompt without a pair is NaN and is skipped in the mean; without any pair
    the loss is 0.

    Args:
        scores: Of the responses of all prompts.
        ranks: Of the responses among those of their prompt; lower is better.
        group: The prompt of each response.
        margin: m, by which the better score has to exceed the worse.

    Returns:
        The loss of each prompt, by ascending ``group``, and the mean.
    """
    per_prompt = pairwise_loss(scores, ranks, group, lambda h: dpo_loss(h, beta=1.0, margin=margin))
    usable = has_pair(ranks, group)
    return per_prompt, torch.where(usable, per_prompt, 0.0).sum() / usable.sum().clamp(min=1)


@dataclass(frozen=True)
class TokenShift:
    """The change of token probabilities by training; 0 outside the mask."""

    delta_logp: Tensor  # [B, T] log π_trained - log π_base
    ratio: Tensor  # [B, T]
    delta_p: Tensor  # [B, T] difference of probabilities
    top: Tensor  # [K] int64, places in the flattened [B, T] of the largest |Δlog π|
    mean_abs: Tensor  # [] mean |Δlog π| over tokens


def token_shift(
    logp_base: Float[Tensor, "B T"],
    logp_trained: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    top: int = 3,
) -> TokenShift:
    """Compare two policies on the same tokens (teacher forcing)."""
    delta = token_log_ratio(logp_trained, logp_base, mask)
    before, after = masked(logp_base, mask).exp(), masked(logp_trained, mask).exp()
    size = torch.where(mask, delta.abs(), -1.0).flatten()
    count = int(mask.sum())
    return TokenShift(
        delta_logp=delta,
        ratio=masked(safe_exp(delta), mask),
        delta_p=masked(after - before, mask),
        top=size.argsort(descending=True, stable=True)[: min(top, count)],
        mean_abs=delta.abs().sum() / max(count, 1),
    )


def exploration_probability(p: Float[Tensor, "*shape"], samples: int) -> Float[Tensor, "*shape"]:
    """``1 - p^K``: the probability that one of K samples or more leaves a path of probability p."""
    return -torch.expm1(samples * p.log())
