"""How different the answers to one prompt are from each other, and what many of them can do.

distinct-n   different n-grams, of all of those in the answers (Li et al. 2016, 1510.03055)
self-BLEU    BLEU of an answer with the others as references, mean (Zhu et al. 2018, 1802.01886)
pass@k       1 - C(n-c, k)/C(n, k) with c right ones among n (Chen et al. 2021, 2107.03374, Eq. 1)
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from polopt.diagnose.xray.intervals import Estimate, ratio
from polopt.rollout.evaluation import share_interval

LONGEST = 4  # n-grams of BLEU
UNSEEN = 0.1  # counted for an n-gram order without a match (Chen & Cherry 2014, method 1)
Tokens = Sequence[int]


def n_grams(tokens: Tokens, n: int) -> Counter[tuple[int, ...]]:
    """How often each stretch of n tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def distinct(answers: Sequence[Tokens], n: int) -> float | None:
    """Different n-grams, of all n-grams in these answers; None: they are too short to have any."""
    counts = sum((n_grams(one, n) for one in answers), Counter[tuple[int, ...]]())
    return len(counts) / counts.total() if counts else None


def bleu(answer: Tokens, references: Sequence[Tokens]) -> float:
    """``min(1, e^{1-r/c}) · Πₙ pₙ^{1/N}`` with clipped precisions p, N = 4 or the length c.

    r is the length of the reference that is nearest to c (Papineni et al. 2002).
    """
    if not answer or not references:
        return 0.0
    logs = list[float]()
    for n in range(1, min(LONGEST, len(answer)) + 1):
        own, most = n_grams(answer, n), Counter[tuple[int, ...]]()
        for one in references:
            most |= n_grams(one, n)
        matches = (own & most).total()
        logs.append(math.log((matches or UNSEEN) / own.total()))
    nearest = min((abs(len(one) - len(answer)), len(one)) for one in references)[1]
    return math.exp(min(0.0, 1 - nearest / len(answer)) + statistics.fmean(logs))


def self_bleu(answers: Sequence[Tokens]) -> float | None:
    """The mean BLEU of each answer with the others as references; None of a single one."""
    if len(answers) < 2:
        return None
    return statistics.fmean(
        bleu(one, [*answers[:place], *answers[place + 1 :]]) for place, one in enumerate(answers)
    )


def diversity(groups: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """Means over prompts of distinct-1 to 3, self-BLEU and the share of answers that differ."""
    columns = {f"distinct_{n}": [distinct(one, n) for one in groups] for n in (1, 2, 3)}
    columns["self_bleu"] = [self_bleu(one) for one in groups]
    columns["different"] = [len(set(map(tuple, one))) / len(one) for one in groups]
    found = dict[str, Any]()
    for name, column in columns.items():
        known = [value for value in column if value is not None]
        if known:
            interval = list(share_interval(known)) if len(known) > 1 else None
            found[name] = {"value": statistics.fmean(known), "interval": interval}
    return found


def pass_at(k: int, n: int, right: int) -> float:
    """``1 - C(n-c, k)/C(n, k)``: the chance that k of n answers have one of the c right ones."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def passes(
    before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]]
) -> dict[str, Any] | None:
    """pass@k of both models for every k, their difference, and where the curves cross.

    Args:
        before: of each prompt, which of its answers are right.
        after: of the same prompts.

    Returns:
        None where no prompt has a verdict of both. ``crossing`` is the first k at which the model
        that is ahead with one answer is behind.
    """
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a and b]
    if not pairs:
        return None
    most = min(len(one) for pair in pairs for one in pair)
    rows = list[dict[str, Any]]()
    for k in range(1, most + 1):
        sides = [
            [pass_at(k, len(one), sum(one)) for one in side] for side in zip(*pairs, strict=True)
        ]
        gap = [b - a for a, b in zip(*sides, strict=True)]
        named = zip(("before", "after", "difference"), (*sides, gap), strict=True)
        rows.append({"k": k, **{name: _mean(values).as_json() for name, values in named}})
    first = rows[0]["difference"]["value"]
    crossing = next((r["k"] for r in rows if r["difference"]["value"] * first < 0), None)
    return {"prompts": len(pairs), "rows": rows, "crossing": crossing}


def _mean(values: Sequence[float]) -> Estimate:
    return ratio(np.array(values), np.ones(len(values)), range(len(values)))
