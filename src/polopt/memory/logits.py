"""How many states have logits at once, and which probabilities are kept for a backward pass."""

from __future__ import annotations

KEPT_BYTES = 256 * 2**20
"""Of probabilities in float32, kept for the backward pass; where there are more they are made
again."""
IN_CACHE = 2**20
"""Logits made at once on a processor."""
ON_DEVICE = 2**25
"""The same on an accelerator."""
STATES = 128
"""Whose logits are made at once at least: below it a matrix product reads more than it computes."""


def at_once(vocabulary: int, kind: str) -> int:
    """The states whose logits are made at once on a kind of device."""
    return max(STATES, (IN_CACHE if kind == "cpu" else ON_DEVICE) // vocabulary)


def most_kept(vocabulary: int) -> int:
    """The states whose probabilities are kept, if there are no more of them in a pass."""
    return KEPT_BYTES // (4 * vocabulary)
