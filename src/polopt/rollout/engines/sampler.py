"""Draw one token a row and return the log-prob of what was drawn, of the distribution drawn from.

Inverse-CDF sampling: one uniform number a row decides, token = first i with F(i) > u · F(V). The
uniforms are a function of (seed, ticket, sample, position), so a response does not depend on
which rows are decoded beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.math.reduce import without
from polopt.types import Sampling

BLOCK = 64  # tokens that are added up before they are searched


def uniforms(
    seed: int, ticket: int, sample: int, count: int, position: int = 0
) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each position of a response from ``position`` on."""
    key = np.random.SeedSequence(entropy=seed, spawn_key=(ticket, sample))
    return np.random.Generator(np.random.Philox(key)).random(position + count)[position:]


def processed_logits(
    logits: torch.Tensor,
    sampling: Sampling,
    early: torch.Tensor | None = None,
    stop_ids: Sequence[int] = (),
) -> torch.Tensor:
    """The logits of the distribution that is sampled: temperature, then nucleus.

    Args:
        logits: [B, V]; they may be written over.
        sampling: temperature 0 leaves the logits as they are (the sampler takes the largest).
        early: [B] bool, rows that may not end yet; None: there are none.
        stop_ids: tokens that end a row.
    """
    logits = logits.float()
    if early is not None:
        logits = without(logits, early, stop_ids)
    if sampling.temperature not in (0.0, 1.0):
        logits = logits / sampling.temperature
    if sampling.top_p < 1.0:
        logits = _nucleus(logits, sampling.top_p)
    return logits


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, greedy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token [B] and its log-prob [B] from processed logits [B, V] and uniform numbers [B]."""
    p = torch.softmax(logits, dim=-1)
    token = logits.argmax(dim=-1) if greedy else _quantile(p, uniform.double())
    return token, p.gather(-1, token[:, None])[:, 0].log()


def _quantile(p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first token [B] at which the cumulative sum of p [B, V] exceeds a share of the whole.

    Found among sums of blocks, then within a block: running sums of a whole vocabulary in float64
    take more time and memory than all else here. (float64: at 150,000 tokens a float32 sum is off
    by more than the rarest probabilities.)
    """
    blocks = torch.nn.functional.pad(p, (0, -p.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)  # [B, V/BLOCK]
    share = uniform[:, None] * sums[:, -1:]
    block = _first_above(sums, share)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(1, block)
    own = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    return (block * BLOCK + _first_above(own, share - before))[:, 0]


def _first_above(sums: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The first column [B, 1] of running sums [B, n] that is above ``share`` [B, 1].

    What reaches the last sum, by rounding, is taken for a little less: the tokens behind it have no
    probability.
    """
    below = torch.nextafter(sums[:, -1:], torch.zeros_like(share))
    return torch.searchsorted(sums, torch.minimum(share, below), right=True)


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -torch.inf)
