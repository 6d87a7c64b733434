"""The reward model: one score for a response, or one for each of its steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.roles.scorer import Scorer, measured
from polopt.types import TokenRows

Ids = Sequence[Sequence[int]] | Sequence[NDArray[np.int64]]


def reward_of(
    scorer: Scorer, *, pad_id: int, device: torch.device
) -> Callable[[Ids, Ids], list[float]]:
    """``r(x, y)``: the output of the head at the last token of prompt and response.

    Token in, token out: the ids that were sampled are scored, text is never tokenised again. The
    score of a response does not depend on those it is scored with, but for rounding.
    """

    def reward_model(prompt_ids: Ids, completion_ids: Ids) -> list[float]:
        rows = padded(prompt_ids, completion_ids, pad_id=pad_id, device=device)
        return measured(scorer, rows, "last_values").tolist()

    return reward_model


def step_rewards_of(
    scorer: Scorer,
    *,
    pad_id: int,
    device: torch.device,
    ends: Callable[[Sequence[int] | NDArray[np.int64]], Sequence[bool]],
) -> Callable[[Ids, Ids], list[list[float | None]]]:
    """``r(x, y_≤t)``: the output of the head at every token that ends a step; None elsewhere."""

    def reward_model(prompt_ids: Ids, completion_ids: Ids) -> list[list[float | None]]:
        rows = padded(prompt_ids, completion_ids, pad_id=pad_id, device=device)
        said = measured(scorer, rows, "values_after").tolist()
        return [
            [number if end else None for number, end in zip(row, ends(ids), strict=False)]
            for row, ids in zip(said, completion_ids, strict=True)
        ]

    return reward_model


def step_ends(pieces: Sequence[str], separator: str | None) -> list[bool]:
    """Which tokens end a step: those in which a separator is complete, and the last one.

    Args:
        pieces: the text of each token.
        separator: what stands between steps; None: every token is a step.
    """
    if separator is None:
        return [True] * len(pieces)
    text, place, found = "".join(pieces), 0, set[int]()
    while (place := text.find(separator, place)) >= 0:
        place += len(separator)
        found.add(place)  # characters up to the end of a separator
    starts = [0, *itertools.accumulate(map(len, pieces))]
    steps = [any(a < end <= b for end in found) for a, b in itertools.pairwise(starts)]
    return [*steps[:-1], True] if steps else []


def padded(prompts: Ids, responses: Ids, *, pad_id: int, device: torch.device) -> TokenRows:
    """Prompts padded on the left, responses on the right."""
    prompt_width, width = max(map(len, prompts)), max(map(len, responses))
    tokens = np.full((len(prompts), prompt_width + width), pad_id, dtype=np.int64)
    attention = np.zeros(tokens.shape, dtype=np.bool_)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start, end = prompt_width - len(prompt), prompt_width + len(response)
        tokens[row, start:prompt_width], tokens[row, prompt_width:end] = prompt, response
        attention[row, start:end] = True
    return TokenRows(
        tokens=torch.from_numpy(tokens).to(device),
        attention=torch.from_numpy(attention).to(device),
        prompt_width=prompt_width,
    )
