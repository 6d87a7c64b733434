"""Randomness is a function of (seed, what for, where): there is no hidden state to lose.

A stream that is derived from the run's seed and a place (stage, step, epoch) resumes exactly, does
not depend on what was drawn elsewhere, and cannot be disturbed by a reward function.
"""

from __future__ import annotations

import zlib

import numpy as np


def derive(seed: int, *place: int | str) -> int:
    """A 63-bit seed for one place; any change in ``seed`` or ``place`` gives another stream.

    Args:
        seed: any integer >= 0.
        place: words, and integers from 0 to 2**32 - 1.
    """
    key = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in place)
    high, low = np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(2, np.uint32)
    return (int(high) << 32 | int(low)) >> 1
