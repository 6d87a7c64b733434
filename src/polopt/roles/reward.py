"""The reward model: one number for a whole response, read off its last token."""

from __future__ import annotations

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
    """``r(x, y)``: what the head says at the last token of prompt and response.

    Token in, token out: the ids that were sampled are scored, text is never tokenised again. What a
    response gets does not depend on those it is scored with, but for rounding.
    """

    def reward_model(prompt_ids: Ids, completion_ids: Ids) -> list[float]:
        rows = padded(prompt_ids, completion_ids, pad_id=pad_id, device=device)
        return measured(scorer, rows, "last_values").tolist()

    return reward_model


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
