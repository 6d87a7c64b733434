"""Draw one token a row and return the log-prob of what was drawn, of the distribution drawn from.

Inverse-CDF sampling: one uniform number a row decides, token = first i with F(i) > u · F(V). The
uniforms are a function of (seed, ticket, sample, position), so a response does not depend on
which rows are decoded beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.types import Sampling

BLOCK = 128  # tokens


def uniforms(seed: int, ticket: int, sample: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each position of a response."""
    key = np.random.SeedSequence(entropy=seed, spawn_key=(ticket, sample))
    return np.random.Generator(np.random.Philox(key)).random(count)


def processed_logits(
    logits: torch.Tensor, sampling: Sampling, forbidden: torch.Tensor | None = None
) -> torch.Tensor:
    """The logits of the distribution that is sampled: temperature, then nucleus.

    Args:
        logits: [B, V].
        sampling: temperature 0 leaves the logits as they are (the sampler takes the largest).
        forbidden: [N] ids of tokens that may not be drawn, or None.
    """
    logits = logits.float()
    if forbidden is not None:
        logits = logits.index_fill(-1, forbidden, -torch.inf)
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if sampling.top_p < 1.0:
        logits = _nucleus(logits, sampling.top_p)
    return logits


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, greedy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token [B] and its log-prob [B] from processed logits [B, V] and uniform numbers [B]."""
    logp = torch.log_softmax(logits, dim=-1)
    token = logits.argmax(dim=-1) if greedy else _at(logp.exp(), uniform)
    return token, logp.gather(-1, token[:, None])[:, 0]


def _at(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first i with F(i) > u · F(V) for each row of weights [B, V]: first its block, then it.

    Sums are in float64: at 150,000 tokens a float32 sum is off by more than the rarest
    probabilities. Only sums of blocks, and the weights of one block, are added up one by one.
    """
    rows, size = weights.shape
    blocks = torch.nn.functional.pad(weights, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    until = blocks.sum(dim=-1).double().cumsum(dim=-1)  # [B, blocks]
    threshold = uniform.double()[:, None] * until[:, -1:]
    block = torch.searchsorted(until, threshold, right=True).clamp(max=until.shape[1] - 1)
    before = torch.nn.functional.pad(until, (1, 0)).gather(-1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    place = torch.searchsorted(inside.cumsum(dim=-1) + before, threshold, right=True)
    # Rounding may leave the last sum below the threshold: then it is the last token of the block
    # that can be drawn at all.
    last = BLOCK - 1 - (inside > 0).flip(-1).byte().argmax(dim=-1, keepdim=True)
    return (block * BLOCK + torch.minimum(place, last))[:, 0]


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -torch.inf)
