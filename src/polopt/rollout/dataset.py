"""Given responses in the place of sampled ones: demonstrations and rankings."""

from __future__ import annotations

import math

import numpy as np

from polopt.data import Demonstration, Ranking
from polopt.types import Group, Sample


def demonstrated(place: int, demonstration: Demonstration) -> Group:
    """A demonstration as a group of one; it was not sampled and has no behaviour log-probs."""
    return Group(place, demonstration.prompt, (_sample(demonstration),))


def ranked(place: int, ranking: Ranking) -> Group:
    """The responses to one prompt as a group; the reward of each is minus its rank."""
    pairs = zip(ranking.responses, ranking.ranks, strict=True)
    return Group(place, ranking.prompt, tuple(_sample(one, -float(rank)) for one, rank in pairs))


def _sample(given: Demonstration, reward: float = math.nan) -> Sample:
    return Sample(
        tokens=given.tokens,
        mask=given.mask,
        logp_rollout=np.full(len(given.tokens), np.nan, dtype=np.float32),
        prompt_length=given.prompt_length,
        reward=reward,
    )
