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
        forbidden: [B, V] bool, tokens that may not be drawn; None: there are none.
    """
    logits = logits.float()
    if forbidden is not None:
        logits = logits.masked_fill(forbidden, -torch.inf)
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
    if greedy:
        token = logits.argmax(dim=-1)
    else:
        # float64: at 150,000 tokens a float32 sum is off by more than the rarest probabilities.
        cumulative = logp.exp().double().cumsum(dim=-1)
        threshold = uniform.double() * cumulative[:, -1]
        token = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(-1, token[:, None])[:, 0]


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -torch.inf)
