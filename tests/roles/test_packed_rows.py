"""What is packed: each real token once, equal prompts once, in passes of a given size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.roles import micro_batches
from polopt.roles.policies.packed import SLACK, packed_rows, sizes
from polopt.roles.reward import padded
from polopt.types import TokenRows

CPU = torch.device("cpu")


def rows(*pairs: tuple[str, str]) -> TokenRows:
    """Rows of prompts and responses; a token is the number of its letter."""
    prompts, responses = zip(*pairs, strict=True)
    numbers = [[list(map(ord, text)) for text in texts] for texts in (prompts, responses)]
    return padded(*numbers, pad_id=0, device=CPU)


def text(tokens: torch.Tensor) -> str:
    return "".join(map(chr, tokens.flatten().tolist()))


PAIRS = rows(("abc", "xyz"), ("abc", "uv"), ("d", "w"))


def test_by_hand() -> None:
    found = packed_rows(PAIRS, ends=True)
    # The shared prompt and the row that shares nothing, then the responses to the shared prompt.
    assert text(found.tokens) == "abc" + "dw" + "xyz" + "uv"
    assert found.positions.tolist() == [[0, 1, 2, 0, 1, 3, 4, 5, 3, 4]]
    assert found.cells.tolist() == [0, 1, 2, 3, 4, 6]  # of [3, 3]
    assert text(found.tokens[0, found.before]) == "cxy" + "cu" + "d"
    assert text(found.tokens[0, found.after]) == "xyz" + "uv" + "w"
    assert text(found.tokens[0, found.last]) == "zvw"


def test_what_predicts_nothing_is_not_computed() -> None:
    found = packed_rows(PAIRS, ends=False)
    assert text(found.tokens) == "abc" + "d" + "xy" + "u"
    assert text(found.tokens[0, found.before]) == "cxy" + "cu" + "d"
    assert not len(found.after) and not len(found.last)


def test_prompts_of_other_lengths_are_other_prompts() -> None:
    """Left padding must not make "bc" and "abc" the same, nor zeros that are tokens."""
    of = sizes(rows(("bc", "x"), ("abc", "x"), ("bc", "y")))
    assert of.prompt.tolist() == [0, 1, 0]
    zeros = padded([[0, 5], [5]], [[1], [1]], pad_id=0, device=CPU)
    assert sizes(zeros).prompt.tolist() == [0, 1]


def test_responses_without_tokens() -> None:
    found = packed_rows(rows(("ab", ""), ("ab", "x"), ("c", "")), ends=True)
    assert text(found.tokens) == "ab" + "c" + "x"
    assert text(found.tokens[0, found.last]) == "bxc"
    assert text(found.tokens[0, found.before]) == "b"


texts = st.text(st.sampled_from("abc"), min_size=1, max_size=9)
pairs = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "abcabc", "cc"]), texts), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(pairs, st.booleans())
def test_every_token_is_there_once_and_knows_what_comes_before(
    given: list[tuple[str, str]], ends: bool
) -> None:
    of = rows(*given)
    found = packed_rows(of, ends=ends)
    prompts = {p for p, _ in given}
    cut = 0 if ends else 1
    assert len(found.tokens[0]) == sum(map(len, prompts)) + sum(len(r) - cut for _, r in given)
    cells = of.tokens[:, of.prompt_width :].reshape(-1)[found.cells]
    assert text(cells) == "".join(response for _, response in given)
    assert text(found.tokens[0, found.before]) == "".join(
        (p + r)[len(p) - 1 : -1] for p, r in given
    )
    assert [b.start for b in found.blocks] == np.cumsum([0, *(b.count for b in found.blocks)])[
        :-1
    ].tolist()
    assert all(b.rows * b.width <= SLACK * b.count for b in found.blocks)


def total(of: TokenRows, index: torch.Tensor | slice) -> int:
    part = sizes(of.rows(index))
    prompts = dict(zip(part.prompt.tolist(), part.prompt_tokens.tolist(), strict=True))
    return sum(prompts.values()) + int(part.response_tokens.sum())


@settings(deadline=None, max_examples=60)
@given(pairs, st.integers(1, 60))
def test_passes_keep_within_their_size_and_hold_every_row_once(
    given: list[tuple[str, str]], tokens: int
) -> None:
    of = rows(*given)
    parts = [torch.arange(len(given))[part] for part in micro_batches(of, tokens)]
    assert sorted(torch.cat(parts).tolist()) == list(range(len(given)))
    assert all(len(part) and (len(part) == 1 or total(of, part) <= tokens) for part in parts)


def test_rows_of_a_prompt_stay_together() -> None:
    of = rows(*[(prompt, "xxxx") for prompt in ("aaaaaa", "bbbbbb") for _ in range(4)])
    assert [part.tolist() for part in micro_batches(of, 22)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    split = [part.tolist() for part in micro_batches(of, 16)]  # a prompt and two responses fit
    assert split == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_groups_are_not_split() -> None:
    of = rows(*[("a", "xxxx")] * 6)
    parts = micro_batches(of, 9, groups=torch.tensor([0, 0, 0, 1, 1, 2]))
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize("tokens", [None, 10_000])
def test_all_rows_at_once(tokens: int | None) -> None:
    assert micro_batches(PAIRS, tokens) == [slice(None)]
