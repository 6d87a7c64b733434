"""Tokens that changed place: where another token is the likeliest one now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from polopt.diagnose.xray.read import Answer

SHOWN = 30  # pairs


def swaps(answers: Sequence[Answer], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Pairs of the likeliest token before and after, the most frequent first.

    ``first`` counts those at the first token of an answer, ``prompts`` the prompts that have one.
    """
    counts, firsts = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    prompts = dict[tuple[int, int], set[int]]()
    for one in answers:
        pairs = zip(one.numbers.top_before.tolist(), one.numbers.top_after.tolist(), strict=True)
        for place, (a, b) in enumerate(pairs):
            if a != b:
                counts[a, b] += 1
                firsts[a, b] += place == 0
                prompts.setdefault((a, b), set()).add(one.prompt)
    return [
        {
            "before": names[a],
            "after": names[b],
            "count": count,
            "first": firsts[a, b],
            "prompts": len(prompts[a, b]),
        }
        for (a, b), count in counts.most_common(SHOWN)
    ]
