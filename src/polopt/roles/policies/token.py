"""The policy of a language model: a distribution over the next token."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from polopt.math.divergence import entropy_of_logs
from polopt.math.reduce import widen
from polopt.roles.policies.head import Entropy, Head, Sampled, likeliest, log_probs
from polopt.roles.policies.proven import proven, states
from polopt.roles.policies.trunk import (
    Cells,
    Computing,
    States,
    every_cell,
    logits_of,
    padded_states,
)
from polopt.types import TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantity = Literal[
    "logp",
    "entropy",
    "entropy_told",  # the same without gradient, for metrics alone
    "likeliest",
    "values",
    "values_after",
    "last_values",
    "action_values",
    "distribution",
]
AFTER: AbstractSet[Quantity] = frozenset({"values_after", "last_values"})
PLAIN = Computing()


@dataclass(frozen=True)
class Outputs:
    """The outputs of one forward pass of a batch; those that were not requested are None.

    Outside of the responses they are any numbers.
    """

    logp: Tensor | None = None  # [B, T] log π(y_t | x, y_<t)
    entropy: Tensor | None = None  # [B, T] of the next-token distribution, in nats
    distribution: Tensor | None = None  # [B, T, V] log-probs of the next token
    likeliest: Tensor | None = None  # [B, T] int64, the token with the largest probability
    values: Tensor | None = None  # [B, T] V(s_t), or Q(s_t, y_t)
    values_after: Tensor | None = None  # [B, T] V(s_t+1)
    last_values: Tensor | None = None  # [B] of the state after the last token
    action_values: Tensor | None = None  # [B, T, V] Q(s_t, ·)


def score(
    model: PreTrainedModel,
    rows: TokenRows,
    want: AbstractSet[Quantity],
    *,
    stop_ids: tuple[int, ...] = (),
    how: Computing = PLAIN,
    value_head: torch.nn.Module | None = None,
) -> Outputs:
    """Log-probs and entropies of the responses, from one forward pass.

    The distribution is the sampler's: logits are divided by the temperature, and tokens that end
    a response have no probability before ``rows.min_new_tokens``. Log-softmax in float32
    or wider (R2).
    ``value_head`` reads values off the last hidden states of the same pass.
    """
    if rows.width == 0:
        empty = rows.tokens.new_zeros((rows.tokens.shape[0], 0), dtype=torch.float32)
        return Outputs(empty, empty, values=empty, last_values=empty.sum(-1))
    head = proven(model).head
    found = None if head is None else states(model, rows, how, ends=bool(want & AFTER))
    of = every_cell(rows) if found is None else found.cells
    drawn = sampled(rows, stop_ids, of.places)
    if head is None or found is None:
        logits = logits_of(model, rows, how).flatten(0, 1)
        said = _of_logits(drawn.of(widen(logits)), of, want)
    elif "distribution" in want:
        with torch.autocast(rows.tokens.device.type, dtype=torch.bfloat16, enabled=how.autocast):
            logits = head.logits(found.before)
        said = _of_logits(drawn.of(widen(logits)), of, want)
    else:
        said = _of_head(head, drawn, found, want, how)
    if value_head is None or want.isdisjoint({"values", *AFTER}):
        return said
    found = found or padded_states(model, rows, how, ends=bool(want & AFTER))
    valued = values(value_head, found, want)
    return replace(
        said,
        values=valued.values,
        values_after=valued.values_after,
        last_values=valued.last_values,
    )


def _of_logits(logits: Tensor, of: Cells, want: AbstractSet[Quantity]) -> Outputs:
    """The outputs from all logits [n, V], which second derivatives and distributions need."""
    logp = torch.log_softmax(logits, dim=-1)
    taken = logp.gather(-1, of.tokens[:, None])[:, 0]
    entropy = entropy_as_wanted(want, entropy_of_logs, logp)
    return Outputs(
        logp=of.spread(taken) if "logp" in want else None,
        entropy=None if entropy is None else of.spread(entropy),
        likeliest=of.spread(logits.argmax(-1)) if "likeliest" in want else None,
        distribution=of.spread(logp) if "distribution" in want else None,
    )


def _of_head(
    head: Head, sampled: Sampled, found: States, want: AbstractSet[Quantity], how: Computing
) -> Outputs:
    """The outputs without all logits at once."""
    of, entropy = found.cells, cast(Entropy, "told" if "entropy_told" in want else "none")
    if "entropy" in want:
        entropy = "trained"
    logp, spread = log_probs(head, found.before, of.tokens, sampled, entropy, autocast=how.autocast)
    top = None
    if "likeliest" in want:
        top = of.spread(likeliest(head, found.before, sampled, autocast=how.autocast))
    return Outputs(
        logp=of.spread(logp) if "logp" in want else None,
        entropy=None if spread is None else of.spread(spread),
        likeliest=top,
    )


def values(head: torch.nn.Module, of: States, want: AbstractSet[Quantity]) -> Outputs:
    """The outputs of a value head on hidden states.

    One output is the value of a state: ``values`` [B, T] before each token, ``values_after`` after
    it, ``last_values`` [B] after the last one. One output for each token of the vocabulary is the
    value of an action: ``values`` [B, T] of the tokens taken, ``action_values`` [B, T, V] of all;
    after the end of a response there is no action, so its last value is 0.
    """
    before = head(of.before).float()  # [n, outputs]
    of_state, cells = before.shape[-1] == 1, of.cells
    taken = before if of_state else before.gather(-1, cells.tokens[:, None])
    last = None
    if "last_values" in want and of.last is not None:
        last = head(of.last).float()[:, 0] if of_state else of.last.new_zeros(len(of.last)).float()
    after = None
    if "values_after" in want and of.after is not None:
        after = cells.spread(head(of.after).float()[:, 0])
    return Outputs(
        values=cells.spread(taken[..., 0]) if "values" in want else None,
        values_after=after,
        last_values=last,
        action_values=cells.spread(before) if "action_values" in want and not of_state else None,
    )


def sampled(rows: TokenRows, stop_ids: tuple[int, ...], places: Tensor) -> Sampled:
    """How the sampler changed the logits of response tokens at the given places of [B, T]."""
    if not (rows.min_new_tokens and stop_ids):
        return Sampled(rows.temperature)
    return Sampled(rows.temperature, places % rows.width < rows.min_new_tokens, stop_ids)


def entropy_as_wanted(
    want: AbstractSet[Quantity], entropy: Callable[[Tensor], Tensor], of: Tensor
) -> Tensor | None:
    """``entropy(of)``, with gradient where ``entropy`` is requested."""
    if "entropy" in want:
        return entropy(of)
    return entropy(of.detach()) if "entropy_told" in want else None
