"""The policy of a language model: a distribution over the next token."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from polopt.types import TokenRows

Quantity = Literal["logp", "entropy"]


@dataclass(frozen=True)
class Scores:
    """What one forward pass says of a batch; a quantity that was not asked for is None."""

    logp: torch.Tensor | None = None  # [B, T] log π(y_t | x, y_<t)
    entropy: torch.Tensor | None = None  # [B, T] of the next-token distribution, in nats


def score(
    model: PreTrainedModel,
    rows: TokenRows,
    want: AbstractSet[Quantity],
    *,
    stop_ids: tuple[int, ...] = (),
    autocast: bool = False,
) -> Scores:
    """Log-probs and entropies of the responses, from one forward pass.

    The distribution is the sampler's: logits are divided by the temperature, and tokens that end
    a response have no probability before ``rows.min_new_tokens``. Log-softmax in float32 (R2).
    """
    width = rows.tokens.shape[1] - rows.prompt_width
    if width == 0:
        empty = rows.tokens.new_zeros((rows.tokens.shape[0], 0), dtype=torch.float32)
        return Scores(empty, empty)
    positions = (rows.attention.cumsum(dim=1) - 1).clamp(min=0)
    with torch.autocast(rows.tokens.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = model(
            input_ids=rows.tokens,
            attention_mask=rows.attention.long(),
            position_ids=positions,
            use_cache=False,
            logits_to_keep=width + 1,  # the column before the response predicts its first token
        ).logits[:, -width - 1 : -1]
    logits = logits.float() / rows.temperature
    if rows.min_new_tokens and stop_ids:
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        forbidden[:, : rows.min_new_tokens, list(stop_ids)] = True
        logits = logits.masked_fill(forbidden, -torch.inf)
    logp = torch.log_softmax(logits, dim=-1)  # [B, T, V]
    taken = rows.tokens[:, rows.prompt_width :, None]
    return Scores(
        logp=logp.gather(-1, taken)[..., 0] if "logp" in want else None,
        entropy=_entropy(logp) if "entropy" in want else None,
    )


def _entropy(logp: torch.Tensor) -> torch.Tensor:
    """H = −Σ p log p over the vocabulary; tokens without probability add 0."""
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(dim=-1)
