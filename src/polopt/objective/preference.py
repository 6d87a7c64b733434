"""Preference losses: each response has a score, compared with the others of its prompt.

The score is the output of a reward model, or the log-ratio of the response to the reference
(DPO). Either way a prompt is one element of the batch, and its pairs are averaged inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from polopt.math.guards import require_finite
from polopt.math.preference import (
    RankingLoss,
    dpo_loss,
    has_pair,
    hinge_loss,
    ipo_loss,
    ordered_pairs,
    pair_confidence,
    pairwise_loss,
    plackett_luce_loss,
    prompt_means,
)
from polopt.math.reduce import masked, row_sum
from polopt.types import Experience, RowIndex, cut

OfResponse = Callable[[Tensor, Tensor], Tensor]  # values [B, T], mask -> [B]


def sigmoid(*, beta: float, label_smoothing: float = 0.0, margin: float = 0.0) -> RankingLoss:
    """The logistic loss of every pair (``polopt.math.preference.dpo_loss``)."""
    return _of_pairs(partial(dpo_loss, beta=beta, label_smoothing=label_smoothing, margin=margin))


def hinge(*, beta: float) -> RankingLoss:
    """The hinge loss of every pair."""
    return _of_pairs(partial(hinge_loss, beta=beta))


def ipo(*, beta: float) -> RankingLoss:
    """The squared error of every pair's difference."""
    return _of_pairs(partial(ipo_loss, beta=beta))


def plackett_luce(*, beta: float) -> RankingLoss:
    """The likelihood of the whole ranking."""
    return partial(plackett_luce_loss, beta=beta)


def _of_pairs(loss: Callable[[Tensor], Tensor]) -> RankingLoss:
    return partial(pairwise_loss, loss=loss)


@dataclass(frozen=True)
class PreferenceObjective:
    """The choices of a loss of preferences."""

    loss: RankingLoss
    beta: float  # a reward is β times a score; in metrics
    centre: float = 0.0  # c of c·(sᵢ + sⱼ)² for every pair; scores are known up to a constant
    of_response: OfResponse = row_sum  # DPO: from the log-ratios of tokens to the score


@dataclass(frozen=True)
class PreferenceTerms:
    """The terms of one optimiser step that need no gradient, computed once."""

    ranks: Tensor  # [B] lower is better
    group: Tensor  # [B] int64, the prompt of each response
    prompts: Tensor  # [] of the step that have a pair: the divisor
    row: Tensor  # [B] int64, place in the step, to name rows in errors
    mask: Tensor  # [B, T] bool, tokens of the responses
    logp_ref: Tensor | None = None  # [B, T] of the reference

    def rows(self, index: RowIndex) -> PreferenceTerms:
        """The part of some rows, which holds whole prompts."""
        return cut(self, index)

    def share(self, per_prompt: Tensor) -> Tensor:
        """This part's share of the mean over the prompts of the step that have a pair."""
        usable = has_pair(self.ranks, self.group)
        return torch.where(usable, per_prompt, 0.0).sum() / self.prompts


def preference_terms(experience: Experience) -> PreferenceTerms:
    """The terms of one optimiser step; call it on all rows of the minibatch."""
    ranks = -experience.rewards
    return PreferenceTerms(
        ranks=ranks,
        group=experience.group,
        prompts=has_pair(ranks, experience.group).sum().clamp(min=1),
        row=torch.arange(len(ranks), device=ranks.device),
        mask=experience.mask,
        logp_ref=experience.logp_ref,
    )


def reward_model_loss(
    scores: Tensor, terms: PreferenceTerms, objective: PreferenceObjective
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the loss of a reward model, and of its metrics.

    ``mean over prompts of ℓ(scores, ranks) + c·mean over pairs of (sᵢ + sⱼ)²``; the second term,
    which Eisenstein et al. (2312.09244) add, holds the scores around 0.

    Args:
        scores: ``[B]`` of whole responses, with gradient.
        terms: The same rows of ``preference_terms``.
        objective: The choices.

    Raises:
        NonFiniteError: A score is NaN or infinite.
    """
    _require_finite("reward model", "score", scores[:, None], terms, whole=True)
    loss, metrics = _compared(scores, terms, objective)
    if objective.centre:
        i, j = ordered_pairs(terms.ranks, terms.group)
        squares = (scores[i] + scores[j]).square()
        loss = loss + objective.centre * terms.share(prompt_means(squares, i, terms.group))
    return loss, metrics


def direct_preference_loss(
    logp: Tensor, terms: PreferenceTerms, objective: PreferenceObjective
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the loss of direct preference optimisation (DPO).

    ``mean over prompts of ℓ(s, ranks)``, where sᵢ sums (or averages) ``log π - log π_ref`` over the
    tokens of response i. Log-ratios are formed token by token, so that two long sums of log-probs
    are never subtracted.

    Args:
        logp: ``[B, T]`` of the given tokens under the current policy, with gradient.
        terms: The same rows of ``preference_terms``.
        objective: The choices.

    Raises:
        ValueError: The batch has no log-probs of the reference.
        NonFiniteError: A log-prob is NaN or infinite inside the mask.
    """
    if terms.logp_ref is None:
        raise ValueError("the loss reads logp_ref, which is missing")
    _require_finite("preference loss", "logp", logp, terms)
    _require_finite("preference loss", "logp_ref", terms.logp_ref, terms)
    ratios = masked(logp, terms.mask) - masked(terms.logp_ref, terms.mask)
    loss, metrics = _compared(objective.of_response(ratios, terms.mask), terms, objective)
    likelihoods = _sides(row_sum(logp.detach(), terms.mask), terms, "logp")
    return loss, metrics | likelihoods


def _compared(
    scores: Tensor, terms: PreferenceTerms, objective: PreferenceObjective
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of scores; rewards are β·score."""
    loss = terms.share(objective.loss(scores, terms.ranks, terms.group))
    rewards = objective.beta * scores.detach()
    i, j = ordered_pairs(terms.ranks, terms.group)
    _, right = pair_confidence(rewards[i] - rewards[j])
    metrics = _sides(rewards, terms, "reward")
    metrics["reward_margin"] = metrics["reward_chosen"] - metrics["reward_rejected"]
    metrics["pair_accuracy"] = terms.share(prompt_means(right, i, terms.group))
    return loss, metrics


def _sides(values: Tensor, terms: PreferenceTerms, name: str) -> dict[str, Tensor]:
    """Shares of the means over pairs of the values of the better and of the worse response."""
    i, j = ordered_pairs(terms.ranks, terms.group)
    return {
        f"{name}_chosen": terms.share(prompt_means(values[i], i, terms.group)),
        f"{name}_rejected": terms.share(prompt_means(values[j], j, terms.group)),
    }


def _require_finite(
    site: str, name: str, x: Tensor, terms: PreferenceTerms, *, whole: bool = False
) -> None:
    mask = torch.ones_like(x, dtype=torch.bool) if whole else terms.mask
    require_finite(site, name, x.detach(), mask, terms.row)
