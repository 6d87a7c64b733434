"""The text that each token of an answer adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what stands for the bytes of a character that is not whole
LONGEST = 4  # bytes of a character; after as many tokens it is no character


def pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: Sequence[int]
) -> list[str]:
    """One text for each token of ``answer``; joined they are the answer, special tokens included.

    A character of several tokens is in the piece of the last of them. Tokens are read behind the
    piece before, for some tokenisers drop a space where a text begins.
    """

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    ids = [*prompt[-LONGEST:], *answer]
    start, end = 0, len(ids) - len(answer)  # of the piece before
    found, known = list[str](), text(ids[:end])
    for place in range(end + 1, len(ids) + 1):
        whole = text(ids[start:place])
        if whole.endswith(UNFINISHED) and place - end < LONGEST and place < len(ids):
            found.append("")
            continue
        found.append(whole[len(known) :])
        start, end = end, place
        known = text(ids[start:end])
    return found
