"""The loss of supervised fine-tuning: ``-log π`` of given tokens; policy gradient with A = 1."""

from __future__ import annotations

from torch import Tensor

from polopt.math.reduce import masked
from polopt.objective.reduction import Reduction


def supervised_loss(logp: Tensor, reduce: Reduction) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the loss of the step, and of its metrics.

    Args:
        logp: ``[B, T]`` of the given tokens under the current policy, with gradient.
        reduce: The same rows of the step's ``reduction``.

    Returns:
        The loss, and ``nll``, a share of the token mean over the step: sum over micro-batches.

    Raises:
        NonFiniteError: logp is NaN or infinite inside the mask.
    """
    reduce.require_finite("supervised loss", "logp", logp)
    loss = -masked(logp, reduce.mask)
    return reduce.loss(loss), reduce.means({"nll": loss})
