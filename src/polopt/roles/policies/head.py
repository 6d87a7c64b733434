"""Log-probs and entropies from hidden states, without the logits of a whole batch at once.

    z = W h / temperature,   log π(y) = z_y - log Σ e^z,   H = log Σ e^z - Σ p z

The vocabulary is the widest tensor of a language model: 64 responses of 1,024 tokens have 40 GB of
float32 logits at a vocabulary of 152,000. They are made a few rows at a time, small enough for the
cache of a processor, and made again in the backward pass where all of them would not fit. The
gradient of the logits is known: ``∂ log π(y)/∂z = 1_y - p`` and ``∂H/∂z = -p (log p + H)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from polopt.math.reduce import widen, without
from polopt.memory.logits import at_once, most_kept

Entropy = Literal["none", "told", "trained"]
"""Told: without gradient, for metrics alone."""


@dataclass(frozen=True)
class Head:
    """The output embedding of a model, and what its architecture does to logits."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0  # logits are multiplied by it (Granite, Cohere)
    cap: float | None = None  # then c·tanh(z/c) (Gemma 2)

    def logits(self, states: Tensor) -> Tensor:
        """All logits [n, V] of states [n, H], at once; differentiable twice."""
        z = linear(states, self.weight, self.bias) * self.scale
        return z if self.cap is None else self.cap * torch.tanh(z / self.cap)


@dataclass(frozen=True)
class Sampled:
    """What becomes of the logits of n states before a token is drawn."""

    temperature: float = 1.0
    closed: Tensor | None = None  # [n] bool, states in which some tokens cannot be drawn
    stop_ids: tuple[int, ...] = ()  # these tokens

    def of(self, logits: Tensor, part: slice = slice(None)) -> Tensor:
        """The logits [m, V] of some of the states as the sampler has them; may write over them."""
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits if self.closed is None else without(logits, self.closed[part], self.stop_ids)


def log_probs(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    sampled: Sampled,
    entropy: Entropy,
    *,
    autocast: bool,
) -> tuple[Tensor, Tensor | None]:
    """``log π(y)`` [n] of tokens [n] in states [n, H], and H [n] as far as it is wanted.

    Computed in float32, or wider where the weights are (R2); under ``autocast`` products are taken
    in bfloat16, as the sampler takes them.
    """
    found: tuple[Tensor, Tensor | None] = _LogProbs.apply(  # pyright: ignore
        hidden, head.weight, head.bias, tokens, head, sampled, entropy, autocast
    )
    return found


@torch.no_grad()
def likeliest(head: Head, hidden: Tensor, sampled: Sampled, *, autocast: bool) -> Tensor:
    """The token with the largest probability [n] in states [n, H]."""
    dtype = torch.bfloat16 if autocast else head.weight.dtype
    state, w = hidden.to(dtype), head.weight.to(dtype)
    parts = _parts(len(hidden), len(w), hidden.device)
    found = [
        _logits(state[part], w, head.bias, head, sampled, part)[0].argmax(-1) for part in parts
    ]
    return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.long)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        head: Head,
        sampled: Sampled,
        entropy: Entropy,
        autocast: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.head, ctx.sampled = head, sampled
        ctx.dtype = torch.bfloat16 if autocast else weight.dtype
        count, vocabulary = len(tokens), len(weight)
        # The slope of a cap is in no probability: logits are made again for it.
        keep = any(ctx.needs_input_grad[:3]) and head.cap is None
        keep = keep and count <= most_kept(vocabulary)
        state, w = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        logp = torch.empty(
            count, dtype=torch.promote_types(ctx.dtype, torch.float32), device=hidden.device
        )
        spread = None if entropy == "none" else torch.empty_like(logp)
        kept = list[Tensor]()
        for part in _parts(count, vocabulary, hidden.device):
            z, _ = _logits(state[part], w, bias, head, sampled, part)
            z = torch.log_softmax(z, dim=-1)
            logp[part] = z.gather(-1, tokens[part, None])[:, 0]
            p = z.exp() if keep or spread is not None else None
            if p is not None and spread is not None:
                spread[part] = -(p * z.clamp(min=torch.finfo(z.dtype).min)).sum(-1)
            if p is not None and keep:
                kept.append(p)
        ctx.save_for_backward(hidden, weight, bias, tokens, spread, *kept)
        if entropy == "told":
            ctx.mark_non_differentiable(spread)
        return logp, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of: Any) -> Any:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        of_logp, of_entropy = of
        hidden, weight, bias, tokens, spread, *kept = ctx.saved_tensors
        head, sampled = ctx.head, ctx.sampled
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        state, w = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        d_hidden = torch.empty_like(hidden) if need_hidden else None
        d_weight = torch.zeros_like(weight) if need_weight else None
        d_bias = torch.zeros_like(bias) if need_bias else None
        factor = head.scale / sampled.temperature
        for place, part in enumerate(_parts(len(tokens), len(weight), hidden.device)):
            slope = None
            if kept:
                p = kept[place]
            else:
                z, slope = _logits(state[part], w, bias, head, sampled, part)
                p = torch.softmax(z, dim=-1)
            d = torch.zeros_like(p)
            if of_logp is not None:
                d = p * -of_logp[part, None]
                d.scatter_add_(1, tokens[part, None], of_logp[part, None])
            if of_entropy is not None:
                d -= of_entropy[part, None] * (torch.xlogy(p, p) + p * spread[part, None])
            if slope is not None:
                d *= slope
            d = (d * factor if factor != 1.0 else d).to(ctx.dtype)
            if d_hidden is not None:
                d_hidden[part] = d @ w
            if d_weight is not None:
                _add_product(d_weight, d, state[part])
            if d_bias is not None:
                d_bias += d.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None, None, None


def _add_product(total: Tensor, d: Tensor, state: Tensor) -> None:
    """Add ``dᵀ h``, [V, H]; sums over the parts are in the precision of the weights."""
    if d.dtype == total.dtype:
        total.addmm_(d.t(), state)
    else:
        total += d.t() @ state


def _parts(count: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Slices of the states whose logits are made at once."""
    size = at_once(vocabulary, device.type)
    return (slice(start, start + size) for start in range(0, count, size))


def _logits(
    state: Tensor, w: Tensor, bias: Tensor | None, head: Head, sampled: Sampled, part: slice
) -> tuple[Tensor, Tensor | None]:
    """Logits [m, V] as the sampler has them; and the slope of the cap, where there is one."""
    z = widen(linear(state, w, None if bias is None else bias.to(w.dtype)))
    if head.scale != 1.0:
        z = z * head.scale
    if head.cap is None:
        return sampled.of(z, part), None
    bent = torch.tanh(z / head.cap)
    return sampled.of(head.cap * bent, part), 1 - bent.square()
