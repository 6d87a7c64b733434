"""What the answers of a step are made of: repetition, what all of them say, and how they differ.

Counted in four tokens in a row (4-grams). Ids become one number for each 4-gram, so that a batch of
long answers costs a few sorts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from polopt.types import Group, Metrics, Sample

LENGTH = 4  # tokens
LEAST_PROMPTS = 4  # below it two answers agree by chance
# Odd numbers with random bits: equal 4-grams have equal sums, others one in 2^64 times.
_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)

Grams = NDArray[np.uint64]  # one for each place of an answer where four tokens begin


def variety_metrics(groups: Sequence[Group]) -> Metrics:
    """Repetition inside answers, the share that is said whatever was asked, and variety.

    ``response/repetition``: 1 - distinct / all 4-grams of an answer, mean over answers (seq-rep-4
    of Welleck et al. 2019, 1908.04319). ``response/filler``: share of the tokens of an answer that
    are in a 4-gram which the answers to at least half of the other prompts have, too; of four
    prompts or more. ``response/distinct``: distinct / all 4-grams of the answers to one prompt
    together, mean over prompts with two answers or more (distinct-n of Li et al. 2015, 1510.03055).
    An answer of fewer tokens counts as one 4-gram.
    """
    grams = [[_grams(sample) for sample in group.samples] for group in groups]
    found: Metrics = {
        "response/repetition": statistics.fmean(1 - _distinct([one]) for of in grams for one in of)
    }
    if several := [of for of in grams if len(of) > 1]:
        found["response/distinct"] = statistics.fmean(map(_distinct, several))
    asked = [group.prompt.tokens for group in groups]
    if len(set(asked)) >= LEAST_PROMPTS:
        found["response/filler"] = _filler(asked, grams)
    return found


def _grams(sample: Sample) -> Grams:
    """The 4-grams of an answer; an answer of one to three tokens as one number."""
    tokens = sample.tokens[sample.prompt_length :].astype(np.uint64) + np.uint64(1)
    if len(tokens) < LENGTH:
        return (tokens * _FACTORS[: len(tokens)]).sum(keepdims=True, dtype=np.uint64)
    return np.lib.stride_tricks.sliding_window_view(tokens, LENGTH) @ _FACTORS


def _distinct(answers: Sequence[Grams]) -> float:
    """Distinct 4-grams of answers / all of them."""
    together = np.concatenate(answers)
    return len(np.unique(together)) / len(together)


def _filler(asked: Sequence[tuple[int, ...]], grams: Sequence[Sequence[Grams]]) -> float:
    """The mean share of an answer's tokens in a 4-gram that answers to other prompts have."""
    prompts = sorted(set(asked))
    own = [
        _unique(g for key, of in zip(asked, grams, strict=True) if key == p for g in of)
        for p in prompts
    ]
    known, counts = np.unique(np.concatenate(own), return_counts=True)
    common = known[counts - 1 >= (len(prompts) - 1) / 2]  # the prompt itself is one of them
    return statistics.fmean(_covered(np.isin(one, common)) for of in grams for one in of)


def _unique(answers: Iterable[Grams]) -> Grams:
    return np.unique(np.concatenate(list(answers)))


def _covered(starts: NDArray[np.bool_]) -> float:
    """The share of tokens that are in one of the 4-grams that begin where ``starts`` is True.

    An answer of fewer than four tokens has one that covers it whole.
    """
    if len(starts) == 1:
        return float(starts[0])
    covered = np.convolve(starts, np.ones(LENGTH, int)) > 0
    return float(covered.mean())
