"""Losses of preferences: on the difference of a pair, or on all responses to a prompt (a ranking).

A response has one number, its score: the output of a reward model, or how much more likely it is
than under the reference. The loss of a pair sees the difference of two scores alone, so a reward
model (InstructGPT) and a policy (DPO) are trained by the same functions.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from polopt.math.reduce import widen

PairLoss: TypeAlias = Callable[[Tensor], Tensor]  # of h = score of the better - of the worse
RankingLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, ranks, group -> [P]


def implicit_reward(
    logp: Float[Tensor, "*shape"], logp_ref: Float[Tensor, "*shape"], beta: float
) -> Float[Tensor, "*shape"]:
    """``β(log π - log π_ref)``: DPO's reward of a response, PRIME's process reward of a token.

    DPO 2305.18290, Eq. 5 (up to β·log Z); implicit PRM 2412.01981.
    """
    return beta * (widen(logp) - widen(logp_ref))


def dpo_loss(
    logits: Float[Tensor, "N"], *, beta: float, label_smoothing: float = 0.0, margin: float = 0.0
) -> Float[Tensor, "N"]:
    """``-(1-ε)·log σ(βh - m) - ε·log σ(-βh - m)``: the logistic loss of a pair (Bradley-Terry).

    DPO 2305.18290, Eq. 7; ε > 0 is conservative DPO (labels are wrong with probability ε); β = 1
    is the loss of a reward model (Stiennon 2009.01325), m its margin (Llama 2 2307.09288).
    """
    kept = (1.0 - label_smoothing) * logsigmoid(beta * logits - margin)
    return -kept - label_smoothing * logsigmoid(-beta * logits - margin)


def ipo_loss(logits: Float[Tensor, "N"], *, beta: float) -> Float[Tensor, "N"]:
    """``(h - 1/(2β))²`` (IPO 2310.12036, Eq. 17), h of summed log-probs."""
    return (logits - 1.0 / (2.0 * beta)).square()


def hinge_loss(logits: Float[Tensor, "N"], *, beta: float) -> Float[Tensor, "N"]:
    """``max(0, 1 - βh)``: SLiC-HF 2305.10425 with log-ratios in the place of log-probs.

    The form of RSO 2309.06657 and of TRL: the margin is 1, and β its scale.
    """
    return (1.0 - beta * logits).clamp(min=0.0)


def ordered_pairs(
    ranks: Float[Tensor, "N"], group: Int[Tensor, "N"]
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """Every pair of rows of one prompt with rank of i < rank of j (i is better); ties make none."""
    better = (group[:, None] == group[None, :]) & (ranks[:, None] < ranks[None, :])
    i, j = better.nonzero(as_tuple=True)
    return i, j


def has_pair(ranks: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Bool[Tensor, "P"]:
    """Whether each prompt has responses of different ranks; prompts by ascending ``group``."""
    prompts, index = torch.unique(group, return_inverse=True)
    i, _ = ordered_pairs(ranks, group)
    return torch.zeros(len(prompts), dtype=torch.bool, device=group.device).index_fill(
        0, index[i], True
    )


def prompt_means(
    x: Float[Tensor, "M"], row: Int[Tensor, "M"], group: Int[Tensor, "N"]
) -> Float[Tensor, "P"]:
    """The mean of ``x`` over the pairs of each prompt, by ascending ``group``; NaN without a pair.

    Args:
        x: One number a pair.
        row: Index of one of the two rows of each pair.
        group: The prompt of each row.
    """
    prompts, index = torch.unique(group, return_inverse=True)
    totals = x.new_zeros(len(prompts)).index_add(0, index[row], x)
    pairs = torch.zeros_like(totals).index_add(0, index[row], torch.ones_like(x))
    return torch.where(pairs > 0, totals / pairs.clamp(min=1.0), torch.nan)


def pairwise_loss(
    scores: Float[Tensor, "N"],
    ranks: Float[Tensor, "N"],
    group: Int[Tensor, "N"],
    loss: PairLoss,
) -> Float[Tensor, "P"]:
    """``(1/pairs)Σ_{i≻j} ℓ(sᵢ - sⱼ)`` of each prompt; NaN for a prompt without a pair.

    All pairs of a prompt are one element of the batch (InstructGPT 2203.02155, section 3.5): pairs
    of one prompt in many batches overfit.
    """
    i, j = ordered_pairs(ranks, group)
    wide = widen(scores)
    return prompt_means(loss(wide[i] - wide[j]), i, group)


def plackett_luce_loss(
    scores: Float[Tensor, "N"],
    ranks: Float[Tensor, "N"],
    group: Int[Tensor, "N"],
    *,
    beta: float = 1.0,
) -> Float[Tensor, "P"]:
    """``-Σᵢ log( e^{βsᵢ} / (e^{βsᵢ} + Σ_{j worse} e^{βsⱼ}) )`` of each prompt.

    The negative log-likelihood of the ranking: the best response is chosen first, then the best of
    the others, and so on (Plackett 1975; ListMLE, Xia et al. 2008; with implicit rewards DPO
    2305.18290, appendix A.3).
    Of tied responses none is chosen before the other; with K = 2 it is the logistic loss of the
    pair. NaN for a prompt without a pair.
    """
    wide = beta * widen(scores)
    worse = (group[:, None] == group[None, :]) & (ranks[:, None] < ranks[None, :])
    rivals = worse | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    others = torch.where(rivals, wide[None, :], -torch.inf)
    losses = others.logsumexp(dim=1) - wide
    chosen = worse.any(dim=1)  # the last of a ranking has no rivals, and no term
    prompts, index = torch.unique(group, return_inverse=True)
    totals = wide.new_zeros(len(prompts)).index_add(0, index, torch.where(chosen, losses, 0.0))
    places = torch.zeros_like(totals).index_add(0, index, chosen.to(totals.dtype))
    return torch.where(places > 0, totals, torch.nan)


def pair_accuracy(
    scores: Float[Tensor, "N"], ranks: Float[Tensor, "N"], group: Int[Tensor, "N"]
) -> Float[Tensor, "P"]:
    """Share of the pairs of each prompt whose better response has the higher score.

    Equal scores are half right, as in the area under a ROC curve. NaN for a prompt without a pair.
    """
    i, j = ordered_pairs(ranks, group)
    return prompt_means(_right(widen(scores)[i] - widen(scores)[j]), i, group)


def pair_confidence(
    differences: Float[Tensor, "M"],
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """``σ(|h|)``, the confidence in each ordering, and whether it is right (1, 0; ½ at a tie)."""
    return torch.sigmoid(differences.abs()), _right(differences)


def expected_calibration_error(
    confidence: Float[Tensor, "M"], right: Float[Tensor, "M"], bins: int = 20
) -> Float[Tensor, ""]:
    """``Σ_b (n_b/n)·|mean of right in b - mean of confidence in b|`` (Guo 1706.04599, Eq. 3).

    Bins of equal width over (0, 1]. The confidence in an ordering is at least ½, so pairs fill half
    of them. 0 without pairs.
    """
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = right.new_zeros(bins).index_add(0, place, right - confidence.to(right.dtype))
    return gap.abs().sum() / max(len(right), 1)


def _right(differences: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """1 where the better one wins, ½ at a tie, else 0."""
    return (differences.sign() + 1.0) / 2.0
