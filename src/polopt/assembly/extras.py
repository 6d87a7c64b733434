"""Losses on other data that are added to the loss of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from polopt.assembly.context import StageContext
from polopt.data import Row, holding, question
from polopt.errors import counted
from polopt.math.reduce import token_mean
from polopt.objective import reduction, supervised_loss
from polopt.rollout.pretraining import pretraining_batches
from polopt.update.minibatch import Companion


def companions(of: StageContext) -> Sequence[Companion]:
    """The losses that the recipe adds to every optimiser step of the policy."""
    return () if of.recipe.pretraining.source is None else (pretraining(of),)


def _searched(of: StageContext, rows: Sequence[Row]) -> None:
    """Say how many of the texts hold a prompt that the run is evaluated on."""
    own = (question(row.prompt) for row in of.text.rows.evaluation)
    found = holding(map(str, (row.prompt for row in rows)), {*own, *of.inputs.avoid.values()})
    if found:
        of.inputs.tell(
            f"pretraining.source: {found} of {counted(len(rows), 'text')} hold a prompt that the "
            "run is evaluated on",
            warning=True,
        )


def pretraining(of: StageContext) -> Companion:
    """``-c·E[log π(x)]``, a mean over the tokens of its own batch (PPO-ptx, 2203.02155, Eq. 2)."""
    coefficient = of.recipe.pretraining.coefficient
    avoid = {key for prompt in of.text.evaluation for key in prompt.keys} | of.inputs.avoid.keys()
    batch = pretraining_batches(of.recipe, of.text.tokeniser, partial(_searched, of), avoid)

    def loss(optimiser_steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = of.tensors(batch(optimiser_steps))
        assert tensors.tokens is not None
        logp = of.actor.score(tensors.tokens, {"logp"}).logp
        assert logp is not None
        value, metrics = supervised_loss(logp, reduction(tensors.mask, tensors.group, token_mean))
        return coefficient * value, {"pretraining_nll": metrics["nll"]}

    return loss
