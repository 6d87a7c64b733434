"""The loss of an implicit process reward model, with outcomes as labels (PRIME 2502.01456)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.guards import require_finite
from polopt.math.preference import implicit_reward
from polopt.math.process import labelled, prime_cross_entropy
from polopt.types import Experience, RowIndex, cut


@dataclass(frozen=True)
class ProcessTerms:
    """The terms of one optimiser step that need no gradient, computed once."""

    mask: Tensor  # [B, T] bool, every token of the responses
    logp_ref: Tensor  # [B, T]
    right: Tensor  # [B] 1: right, 0: wrong, NaN: no outcome
    count: Tensor  # rows of the step with an outcome, the divisor
    row: Tensor  # [B] int64, place in the step, to name rows in errors

    def rows(self, index: RowIndex) -> ProcessTerms:
        """The part of some rows, for a micro-batch."""
        return cut(self, index)


def process_terms(experience: Experience) -> ProcessTerms:
    """The terms of one optimiser step; call it on all rows of the minibatch.

    A group of one counts, and so does one whose responses are all right: an outcome is a label
    whether or not there is anything to compare it with.

    Raises:
        ValueError: The batch has no log-probs of the reference or no outcomes.
        NonFiniteError: NaN or infinity inside the mask.
    """
    mask, logp_ref, right = experience.mask, experience.logp_ref, experience.right
    if logp_ref is None or right is None:
        raise ValueError("the process reward reads logp_ref and right; one of them is missing")
    require_finite("process reward", "logp_ref", logp_ref, mask)
    row = torch.arange(mask.shape[0], device=mask.device)
    return ProcessTerms(mask, logp_ref, right, labelled(right, mask).sum(), row)


def process_loss(
    logp: Tensor, terms: ProcessTerms, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of ``-r·log σ(z) - (1-r)·log(1-σ(z))``, ``z = β Σₜ log π_φ/π_ref``.

    PRIME 2502.01456, Algorithm 1, line 8.

    Args:
        logp: ``[B, T]`` of the process reward model, with gradient.
        terms: The same rows of ``process_terms``.
        beta: β of the implicit reward.

    Returns:
        The loss, and ``accuracy``: the share of rows with an outcome for which z > 0 where the
        answer is right, and not where it is wrong.

    Raises:
        NonFiniteError: logp is NaN or infinite inside the mask.
    """
    require_finite("process reward", "logp", logp.detach(), terms.mask, terms.row)
    log_ratio = implicit_reward(logp, terms.logp_ref, 1.0)
    z, loss = prime_cross_entropy(log_ratio, terms.right, terms.mask, beta=beta, rows=terms.count)
    told = labelled(terms.right, terms.mask) & ((z > 0) == (terms.right > 0))
    return loss, {"accuracy": told.sum() / terms.count.clamp(min=1)}
