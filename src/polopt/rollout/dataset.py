"""Given demonstrations in the place of sampled responses."""

from __future__ import annotations

import numpy as np

from polopt.data import Demonstration
from polopt.types import Group, Sample


def demonstrated(place: int, demonstration: Demonstration) -> Group:
    """A demonstration as a group of one; nobody sampled it, so it has no behaviour log-probs."""
    tokens, mask = demonstration.tokens, demonstration.mask
    sample = Sample(
        tokens=tokens,
        mask=mask,
        logp_rollout=np.full(len(tokens), np.nan, dtype=np.float32),
        prompt_length=demonstration.prompt_length,
    )
    return Group(place, demonstration.prompt, (sample,))
