"""Losses on other data that are added to the loss of the policy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polopt.assembly.context import StageContext
from polopt.math.reduce import token_mean
from polopt.objective import reduction, supervised_loss
from polopt.rollout.pretraining import pretraining_batches
from polopt.update.minibatch import Companion


def companions(of: StageContext) -> Sequence[Companion]:
    """The losses that the recipe adds to every optimiser step of the policy."""
    return () if of.recipe.pretraining.source is None else (pretraining(of),)


def pretraining(of: StageContext) -> Companion:
    """``-c·E[log π(x)]``, a mean over the tokens of its own batch (PPO-ptx, 2203.02155, Eq. 2)."""
    coefficient = of.recipe.pretraining.coefficient
    batch = pretraining_batches(of.recipe, of.text.tokeniser)

    def loss(optimiser_steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = of.tensors(batch(optimiser_steps))
        assert tensors.tokens is not None
        logp = of.actor.score(tensors.tokens, {"logp"}).logp
        assert logp is not None
        value, metrics = supervised_loss(logp, reduction(tensors.mask, tensors.group, token_mean))
        return coefficient * value, {"pretraining_nll": metrics["nll"]}

    return loss
