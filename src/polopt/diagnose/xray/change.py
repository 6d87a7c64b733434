"""How far two models are from each other on some answers, and where the change sits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.diagnose.xray.certainty import certainty
from polopt.diagnose.xray.intervals import Estimate, ratio, ratios
from polopt.diagnose.xray.read import Answer
from polopt.diagnose.xray.swaps import swaps
from polopt.report.xray.words import CLASSES
from polopt.rollout.evaluation import mean_interval

LEAST = 1e-6  # nats at a token: below it is rounding, and nothing has changed


def change(answers: Sequence[Answer], names: Mapping[int, str], count: int) -> dict[str, Any]:
    """The figures of some answers, of one model or given.

    Args:
        answers: each with a token.
        names: the text of tokens.
        count: K, answers to a prompt, for what certainty costs.
    """
    kl = np.concatenate([one.numbers.kl for one in answers])
    ratio_of_logs = [one.numbers.log_after - one.numbers.log_before for one in answers]
    prompts = [one.prompt for one in answers for _ in one.ids]
    every = np.ones(len(kl))
    moved = np.concatenate([one.numbers.top_before != one.numbers.top_after for one in answers])
    entropies = {
        f"entropy_{side}": np.concatenate(
            [getattr(one.numbers, f"entropy_{side}") for one in answers]
        )
        for side in ("before", "after")
    }
    return {
        "answers": len(answers),
        "tokens": len(kl),
        "changed": bool(kl.max() > LEAST),
        "kl_token": ratio(kl, every, prompts).as_json(),
        "kl_answer": _of_answers(answers, [float(one.numbers.kl.sum()) for one in answers]),
        "log_ratio_answer": _of_answers(answers, [float(row.sum()) for row in ratio_of_logs]),
        "moved": ratio(moved.astype(np.float64), every, prompts).as_json(),
        **{name: ratio(values, every, prompts).as_json() for name, values in entropies.items()},
        "classes": _concentration(
            [group for one in answers for group in one.groups], list(CLASSES), kl, prompts
        ),
        "positions": _concentration(
            [position(place) for one in answers for place in range(len(one.ids))],
            [position(2**n) for n in range(-1, 20)],
            kl,
            prompts,
        ),
        "certainty": certainty(answers, count),
        "swaps": swaps(answers, names),
    }


def position(place: int | float) -> str:
    """The stretch of places that doubles each time: 1, 2, 3–4, 5–8, … counted from 1."""
    if place < 1:
        return "1"
    high = 2 << (int(place).bit_length() - 1)
    return "2" if high == 2 else f"{high // 2 + 1}–{high}"


def _concentration(
    groups: Sequence[str], names: Sequence[str], kl: NDArray[np.float64], prompts: Sequence[int]
) -> list[dict[str, Any]]:
    """Of each group: its share of all KL, and beside it of all tokens; of groups with a token."""
    there, all_groups = (
        [name for name in dict.fromkeys(names) if name in set(groups)],
        np.array(groups),
    )
    inside = np.stack([all_groups == name for name in there]).astype(np.float64)
    shares, tokens = ratios(inside * kl, kl, prompts), inside.sum(1)
    means = [ratio(row * kl, row, prompts) for row in inside]
    return [
        {
            "name": name,
            "tokens": int(count),
            "of_tokens": float(count) / len(kl),
            "of_kl": share.as_json(),
            "kl_token": mean.as_json(),
        }
        for name, count, share, mean in zip(there, tokens, shares, means, strict=True)
    ]


def _of_answers(answers: Sequence[Answer], values: Sequence[float]) -> dict[str, Any]:
    """The mean over answers, with a t interval over prompts."""
    of_prompts = dict[int, list[float]]()
    for one, value in zip(answers, values, strict=True):
        of_prompts.setdefault(one.prompt, []).append(value)
    means = [statistics.fmean(own) for own in of_prompts.values()]
    interval = mean_interval(means) if len(means) > 1 else None
    return Estimate(statistics.fmean(values), interval).as_json()
