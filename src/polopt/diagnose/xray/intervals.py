"""Ratios of sums over tokens, with intervals that know which tokens belong together.

Tokens of an answer are no independent draws, and answers to a prompt are alike. So prompts are
drawn with replacement, each with all of its answers: the cluster bootstrap (Field & Welsh 2007,
Bootstrapping clustered data, JRSS B 69).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 95  # per cent, between percentiles of the resamples


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval; None: a single prompt says nothing of others."""

    value: float
    interval: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """As ``{"value": 0.5, "interval": [0.4, 0.6]}``."""
        return {"value": self.value, "interval": self.interval and [*self.interval]}


def ratios(
    numerators: NDArray[np.float64], denominator: NDArray[np.float64], prompts: Sequence[int]
) -> list[Estimate]:
    """``Σ xᵢ / Σ yᵢ`` of each of C numerators x, over all items i; 0 where the divisor is 0.

    Args:
        numerators: [C, N].
        denominator: [N].
        prompts: [N], the prompt that an item belongs to.
    """
    _, at = np.unique(np.asarray(prompts), return_inverse=True)
    count = int(at.max()) + 1 if len(at) else 0
    sums = np.stack([np.bincount(at, row, count) for row in (*numerators, denominator)])
    sums = sums.astype(np.float64)
    values = _divided(sums.sum(1))
    if count < 2:
        return [Estimate(float(value)) for value in values]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(_divided(sums @ drawn.T), (tail, 100 - tail), axis=1)
    return [
        Estimate(float(value), (float(a), float(b)))
        for value, a, b in zip(values, low, high, strict=True)
    ]


def ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], prompts: Sequence[int]
) -> Estimate:
    """The same of a single numerator, [N]."""
    return ratios(numerator[None], denominator, prompts)[0]


def _divided(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """All rows but the last by the last one."""
    safe = np.where(sums[-1] == 0, 1.0, sums[-1])
    return sums[:-1] / safe
