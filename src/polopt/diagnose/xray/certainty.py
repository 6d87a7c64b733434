"""The certain that became more certain, and what it costs.

The chance that any of K answers draws another token at a place where this one has probability p is

    1 - pᴷ:   0.149 of p = 0.99 and K = 16,   0.0159 of p = 0.999

Between those two nothing is gained in accuracy, and nine tenths of what was tried there is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.diagnose.xray.intervals import ratios
from polopt.diagnose.xray.read import Answer

BINS = (0.9, 0.95, 0.99, 0.999)  # of the probability before: where each begins
MORE = 1e-6  # by which a probability has risen: less is rounding


def another(log_p: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """``1 - pᴷ``, the chance that any of K independent draws is another token."""
    return -np.expm1(count * log_p)


def certainty(answers: Sequence[Answer], count: int) -> list[dict[str, Any]]:
    """Tokens by their probability before: how many rose, and what was tried there and is now.

    Args:
        answers: of one model.
        count: K, the answers to a prompt.
    """
    before, after = (_joined(answers, name) for name in ("log_before", "log_after"))
    prompts = [one.prompt for one in answers for _ in one.ids]
    p, q = np.exp(before), np.exp(after)
    columns = np.stack([q > p + MORE, p, q, another(before, count), another(after, count)]).astype(
        np.float64
    )
    found = list[dict[str, Any]]()
    for low, high in (*zip(BINS, (*BINS[1:], None), strict=True), (BINS[0], None)):
        inside = (p >= low) & (True if high is None else p < high)
        names = ("rose", "p_before", "p_after", "another_before", "another_after")
        told = ratios(columns * inside, inside.astype(np.float64), prompts)
        count_inside = int(inside.sum())  # of no token there is no figure
        figures = {
            name: one.as_json() if count_inside else None
            for name, one in zip(names, told, strict=True)
        }
        found.append({"from": low, "below": high, "tokens": count_inside, **figures})
    return found


def _joined(answers: Sequence[Answer], name: str) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(getattr(one.numbers, name) for one in answers)])
