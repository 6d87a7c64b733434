"""What a handful of runs say together (Agarwal et al. 2021, arXiv:2108.13264).

rliable has these figures as well, but brings arch, pandas and seaborn along, and its last release
is of August 2024; scipy is here anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, trim_mean

LEAST = 3  # runs of an arm, below which there is no interval
LEVEL = 0.95
RESAMPLES = 2000


def iqm(values: ArrayLike, axis: int = -1) -> Any:  # noqa: ANN401 - a number, or an array of them
    """Interquartile mean: of N runs the ⌊N/4⌋ best and as many of the worst are left out.

    Of three runs it is the mean.
    """
    return trim_mean(values, 0.25, axis=axis)


def better(one: ArrayLike, other: ArrayLike, axis: int = -1) -> Any:  # noqa: ANN401 - as above
    """Probability of improvement: ``P(X > Y) + P(X = Y)/2`` over all pairs of runs.

    The Mann-Whitney U statistic, divided by the number of pairs; 1/2: neither is better.

    Args:
        one: [..., N] along ``axis``, of the arm that may be better.
        other: [..., M].
        axis: of the runs.
    """
    x = np.moveaxis(np.asarray(one, dtype=np.float64), axis, -1)[..., :, None]
    y = np.moveaxis(np.asarray(other, dtype=np.float64), axis, -1)[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1))


def interval(
    *arms: ArrayLike,
    statistic: Callable[..., Any] = iqm,
    resamples: int = RESAMPLES,
    axis: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Ends of the 95 % percentile interval of the stratified bootstrap.

    Runs are drawn with replacement inside each arm, its stratum, and whole: all points of a curve
    come from the same draw. With few runs it is narrower than it should be.

    Args:
        arms: runs along ``axis``; what lies along other axes gets an interval each.
        statistic: of the arms and an ``axis``.
        resamples: draws.
        axis: of the runs.

    Returns:
        None where an arm has fewer than LEAST runs.
    """
    samples = [np.asarray(arm, dtype=np.float64) for arm in arms]
    if min(sample.shape[axis] for sample in samples) < LEAST:
        return None
    ends = bootstrap(
        samples,
        statistic,
        axis=axis,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=resamples,
        batch=100,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.asarray(ends.low), np.asarray(ends.high)


def estimate(*arms: Sequence[float], statistic: Callable[..., Any] = iqm) -> dict[str, Any]:
    """A statistic of single figures, with its interval where there is one; None: unknown."""
    if not all(arms):
        return {"value": None, "interval": None}
    value = float(statistic(*arms, axis=0))
    ends = interval(*arms, statistic=statistic)
    return {"value": value, "interval": None if ends is None else [float(end) for end in ends]}
