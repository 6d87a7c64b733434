"""The policy of a language model: a distribution over the next token."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from polopt.math.reduce import widen
from polopt.types import TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantity = Literal[
    "logp",
    "entropy",
    "entropy_told",  # the same without gradient, for metrics alone
    "values",
    "last_values",
    "action_values",
    "distribution",
]


@dataclass(frozen=True)
class Outputs:
    """The outputs of one forward pass of a batch; those that were not requested are None."""

    logp: torch.Tensor | None = None  # [B, T] log π(y_t | x, y_<t)
    entropy: torch.Tensor | None = None  # [B, T] of the next-token distribution, in nats
    distribution: torch.Tensor | None = None  # [B, T, V] log-probs of the next token
    values: torch.Tensor | None = None  # [B, T] V(s_t), or Q(s_t, y_t)
    last_values: torch.Tensor | None = None  # [B] of the state after the last token
    action_values: torch.Tensor | None = None  # [B, T, V] Q(s_t, ·)


def score(
    model: PreTrainedModel,
    rows: TokenRows,
    want: AbstractSet[Quantity],
    *,
    stop_ids: tuple[int, ...] = (),
    autocast: bool = False,
    value_head: torch.nn.Module | None = None,
) -> Outputs:
    """Log-probs and entropies of the responses, from one forward pass.

    The distribution is the sampler's: logits are divided by the temperature, and tokens that end
    a response have no probability before ``rows.min_new_tokens``. Log-softmax in float32
    or wider (R2).
    ``value_head`` reads values off the last hidden states of the same pass.
    """
    width = rows.width
    if width == 0:
        empty = rows.tokens.new_zeros((rows.tokens.shape[0], 0), dtype=torch.float32)
        return Outputs(empty, empty, values=empty, last_values=empty.sum(-1))
    output = _forward(
        model,
        rows,
        autocast=autocast,
        logits_to_keep=width + 1,  # the column before the response predicts its first token
        output_hidden_states=value_head is not None,
    )
    logits = widen(output.logits[:, -width - 1 : -1]) / rows.temperature
    if rows.min_new_tokens and stop_ids:
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        forbidden[:, : rows.min_new_tokens, list(stop_ids)] = True
        logits = logits.masked_fill(forbidden, -torch.inf)
    logp = torch.log_softmax(logits, dim=-1)  # [B, T, V]
    taken = rows.tokens[:, rows.prompt_width :, None]
    said = Outputs(
        logp=logp.gather(-1, taken)[..., 0] if "logp" in want else None,
        entropy=entropy_as_wanted(want, _entropy, logp),
        distribution=logp if "distribution" in want else None,
    )
    if value_head is None or want.isdisjoint({"values", "last_values"}):
        return said
    valued = values(value_head, output.hidden_states[-1], rows, want)
    return replace(said, values=valued.values, last_values=valued.last_values)


def values(
    head: torch.nn.Module, hidden: torch.Tensor, rows: TokenRows, want: AbstractSet[Quantity]
) -> Outputs:
    """The outputs of a value head on the hidden states [B, P + T, H].

    One output is the value of a state: ``values`` [B, T] before each token, ``last_values`` [B]
    after the last one. One output for each token of the vocabulary is the value of an action:
    ``values`` [B, T] of the tokens taken, ``action_values`` [B, T, V] of all; after the end of a
    response there is no action, so its last value is 0.
    """
    start = rows.prompt_width
    before = head(hidden[:, start - 1 : -1]).float()  # [B, T, outputs]
    of_state = before.shape[-1] == 1
    taken = before if of_state else before.gather(-1, rows.tokens[:, start:, None])
    last = hidden.new_zeros(hidden.shape[0], dtype=torch.float32)
    if of_state and "last_values" in want:
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        end = (columns * rows.attention).argmax(-1)  # of prompt and response
        last = head(hidden[torch.arange(len(end), device=end.device), end]).float()[:, 0]
    return Outputs(
        values=taken[..., 0] if "values" in want else None,
        last_values=last if "last_values" in want else None,
        action_values=before if "action_values" in want and not of_state else None,
    )


def hidden_states(backbone: torch.nn.Module, rows: TokenRows, *, autocast: bool) -> torch.Tensor:
    """The last hidden states of prompt and response, [B, P + T, H]."""
    return _forward(backbone, rows, autocast=autocast).last_hidden_state


def _forward(model: torch.nn.Module, rows: TokenRows, *, autocast: bool, **options: Any) -> Any:  # noqa: ANN401
    """One forward pass; the position of a token counts from the first one of its prompt."""
    positions = (rows.attention.cumsum(dim=1) - 1).clamp(min=0)
    with torch.autocast(rows.tokens.device.type, dtype=torch.bfloat16, enabled=autocast):
        return model(
            input_ids=rows.tokens,
            attention_mask=rows.attention.long(),
            position_ids=positions,
            use_cache=False,
            **options,
        )


def entropy_as_wanted(
    want: AbstractSet[Quantity], entropy: Callable[[torch.Tensor], torch.Tensor], of: torch.Tensor
) -> torch.Tensor | None:
    """``entropy(of)``, with gradient where ``entropy`` is requested."""
    if "entropy" in want:
        return entropy(of)
    return entropy(of.detach()) if "entropy_told" in want else None


def _entropy(logp: torch.Tensor) -> torch.Tensor:
    """H = −Σ p log p over the vocabulary; tokens without probability add 0."""
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(dim=-1)
