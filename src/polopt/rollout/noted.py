"""What an update made of the tokens of an answer, as its line in samples.jsonl has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polopt.rollout.pieces import pieces
from polopt.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS = 5  # significant digits of an advantage


def token_fields(
    sample: Sample,
    completion: str,
    advantages: NDArray[np.float64],
    sides: NDArray[np.int64] | None,
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Advantage and bound of each token of an answer; nothing of one that took no part.

    Args:
        sample: the answer, of T tokens.
        completion: its text, without special tokens.
        advantages: [T or more]; NaN where a token took no part.
        sides: the same of what the bound made of it; None: there is no bound.
        names: of the sides from 1 on.
        tokenizer: of the answer.

    Returns:
        ``ids``; ``advantages``, one number where all tokens have the same, else one for each and
        null where a token took no part; ``clipped``, stretches ``[start, end, side]``, where there
        is a bound; and ``widths``, the characters of each token in the completion, where tokens
        differ in any of it.
    """
    ids: list[int] = sample.tokens[sample.prompt_length :].tolist()
    own = advantages[: len(ids)]
    if np.isnan(own).all():
        return {}
    found: dict[str, Any] = {"ids": ids, "advantages": _told(own)}
    if sides is not None:
        found["clipped"] = list(_stretches(sides[: len(ids)].tolist(), names))
    if isinstance(found["advantages"], list) or found.get("clipped"):
        prompt = sample.tokens[: sample.prompt_length].tolist()
        widths = _widths(pieces(tokenizer, prompt, ids), ids, tokenizer)
        if sum(widths) == len(completion):  # else the tokeniser rewrites text, and nobody can say
            found["widths"] = widths
    return found


def _told(advantages: NDArray[np.float64]) -> float | list[float | None]:
    told = [None if np.isnan(one) else float(f"{one:.{DIGITS}g}") for one in advantages.tolist()]
    return told[0] if len(set(told)) == 1 and told[0] is not None else told


def _stretches(sides: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    start = 0
    for side, run in groupby(sides):
        end = start + len(list(run))
        if side:
            yield start, end, names[side - 1]
        start = end


def _widths(
    found: Sequence[str], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """The characters of each token; special tokens are not in the text."""
    special = {i: len(str(tokenizer.decode([i]))) for i in {*ids} & {*tokenizer.all_special_ids}}
    return [len(text) - special.get(token, 0) for token, text in zip(ids, found, strict=True)]
