"""Losses of preferences: between two responses (DPO, IPO) or in a ranking (reward models)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from polopt.math.reduce import widen


def implicit_reward(
    logp: Float[Tensor, "*shape"], logp_ref: Float[Tensor, "*shape"], beta: float
) -> Float[Tensor, "*shape"]:
    """``β(log π - log π_ref)``: DPO's reward of a response, PRIME's process reward of a token.

    DPO 2305.18290, Eq. 5 (up to β·log Z); implicit PRM 2412.01981.
    """
    return beta * (widen(logp) - widen(logp_ref))


def preference_logits(
    chosen: Float[Tensor, "N"],
    rejected: Float[Tensor, "N"],
    chosen_ref: Float[Tensor, "N"],
    rejected_ref: Float[Tensor, "N"],
) -> Float[Tensor, "N"]:
    """``h = (log π - log π_ref)(y_w) - (log π - log π_ref)(y_l)`` of response log-probs."""
    won = implicit_reward(chosen, chosen_ref, 1.0)
    return won - implicit_reward(rejected, rejected_ref, 1.0)


def dpo_loss(
    logits: Float[Tensor, "N"], *, beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, "N"]:
    """``-(1-ε)·log σ(βh) - ε·log σ(-βh)`` (DPO 2305.18290, Eq. 7; ε > 0 is conservative DPO)."""
    kept = (1.0 - label_smoothing) * logsigmoid(beta * logits)
    return -kept - label_smoothing * logsigmoid(-beta * logits)


def dpo_gradient_weight(logits: Float[Tensor, "N"], *, beta: float) -> Float[Tensor, "N"]:
    """``β·σ(-βh)``: how hard DPO pushes a pair; near 0 where the order is right already."""
    return beta * torch.sigmoid(-beta * logits)


def ipo_loss(logits: Float[Tensor, "N"], *, beta: float) -> Float[Tensor, "N"]:
    """``(h - 1/(2β))²`` (IPO 2310.12036, Eq. 17), h of summed log-probs."""
    return (logits - 1.0 / (2.0 * beta)).square()


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
        margin: By which the better one has to win.

    Returns:
        The loss of each prompt, in the order of their labels, and the mean.
    """
    prompts, index = torch.unique(group, return_inverse=True)
    better = (group[:, None] == group[None, :]) & (ranks[:, None] < ranks[None, :])
    i, j = better.nonzero(as_tuple=True)
    losses = -logsigmoid(widen(scores)[i] - widen(scores)[j] - margin)
    totals = losses.new_zeros(len(prompts)).index_add(0, index[i], losses)
    pairs = torch.zeros_like(totals).index_add(0, index[i], torch.ones_like(losses))
    usable = pairs > 0
    per_prompt = totals / pairs.clamp(min=1.0)
    mean = torch.where(usable, per_prompt, 0.0).sum() / usable.sum().clamp(min=1)
    return torch.where(usable, per_prompt, torch.nan), mean
