"""Token rows without their padding, and prompts that are equal only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.models.packing import Block
from polopt.types import TokenRows

Ints = NDArray[np.int64]
SLACK = 1.3  # padded tokens for each real one, in the attention of a block


@dataclass(frozen=True)
class PackedRows:
    """All tokens of some rows in one row of N, in which attention knows the sequences.

    A token of a response is predicted by the state of the token before it. States that predict
    nothing, and that nobody asks for, are not computed.
    """

    tokens: Tensor  # [1, N] int64
    positions: Tensor  # [1, N] from the first token of the prompt
    blocks: Sequence[Block]
    cells: Tensor  # [n] response tokens, in [B, T] taken as one vector
    before: Tensor  # [n] place of the token before each of them
    after: Tensor  # [n] place of the token itself; [0] if not asked for
    last: Tensor  # [B] place of the last token of prompt and response; [0] if not asked for


@dataclass(frozen=True)
class Sizes:
    """What the host knows of some rows: which prompts are equal, and the counts of tokens."""

    prompt: Ints  # [B] a number for each prompt
    prompt_tokens: Ints  # [B]
    response_tokens: Ints  # [B]


def sizes(rows: TokenRows) -> Sizes:
    """Prompts and lengths of rows; this waits for their device."""
    width = rows.prompt_width
    attention = rows.attention.cpu().numpy()
    prompts = rows.tokens[:, :width].cpu().numpy() * attention[:, :width]
    lengths = attention[:, :width].sum(1)
    numbers = dict[tuple[int, bytes], int]()
    names = [
        numbers.setdefault((int(length), prompt.tobytes()), len(numbers))
        for length, prompt in zip(lengths, prompts, strict=True)
    ]
    return Sizes(np.array(names, dtype=np.int64), lengths, attention[:, width:].sum(1))


def cuts(of: Sizes, tokens: int, groups: Ints | None = None) -> list[Tensor]:
    """The rows of each pass of at most ``tokens``; rows of a prompt together, as far as they fit.

    Args:
        of: the rows.
        tokens: those of a prompt count once in a pass. A row that has more gets a pass of its own.
        groups: [B], groups that are never split.
    """
    units = dict[int, list[int]]()
    for row, unit in enumerate((of.prompt if groups is None else groups).tolist()):
        units.setdefault(unit, []).append(row)
    passes, taken = [list[int]()], 0
    for unit in units.values():
        whole = cost(of, unit)
        for part in [unit] if groups is not None or whole <= tokens else [[row] for row in unit]:
            # Rows of a group that is split follow each other, so that the prompt is there.
            shared = passes[-1] and part != unit and of.prompt[passes[-1][-1]] == of.prompt[part[0]]
            more = cost(of, part) - (int(of.prompt_tokens[part[0]]) if shared else 0)
            if passes[-1] and taken + more > tokens:
                passes.append([])
                taken, more = 0, cost(of, part)
            passes[-1].extend(part)
            taken += more
    return [torch.tensor(rows) for rows in passes]


def cost(of: Sizes, rows: Sequence[int]) -> int:
    """Tokens of some rows, each prompt once."""
    prompts = {int(of.prompt[row]): int(of.prompt_tokens[row]) for row in rows}
    return sum(prompts.values()) + int(of.response_tokens[list(rows)].sum())


def packed_rows(rows: TokenRows, *, ends: bool) -> PackedRows:
    """Pack rows.

    Args:
        rows: each with a prompt of at least one token.
        ends: whether the states after response tokens are asked for, that of the last one too.
    """
    of = sizes(rows)
    prompts, responses, families = _sequences(rows, of, ends=ends)
    order, parts, placed = list[_Sequence](), list[tuple[list[_Sequence], _Sequence | None]](), 0
    for family, prefix in families:
        for bucket in _buckets(family):
            parts.append((bucket, prefix))
            for one in bucket:
                one.start, placed = placed, placed + one.length
            order.extend(bucket)
    lengths = [one.length for one in order]
    index = _Indices(rows.tokens.device)
    source = index.add(_runs([one.source for one in order], lengths))
    positions = index.add(_runs([one.position for one in order], lengths))
    states = [index.add(x) for x in _states(of, prompts, responses, rows.width, ends=ends)]
    ragged = [[index.add(x) for x in _ragged(bucket)] for bucket, _ in parts]
    given = index.moved()
    cells, before, after, last = (given[place] for place in states)
    return PackedRows(
        tokens=rows.tokens.reshape(-1)[given[source]][None],
        positions=given[positions][None],
        blocks=[
            _block(bucket, prefix, [given[place] for place in places])
            for (bucket, prefix), places in zip(parts, ragged, strict=True)
        ],
        cells=cells,
        before=before,
        after=after,
        last=last,
    )


@dataclass
class _Sequence:
    """Tokens of one row that attention sees as one sequence."""

    source: int  # of its first token, in [B, P + T] taken as one vector
    length: int
    position: int  # of its first token, from the beginning of the prompt
    start: int = 0  # its place in the packed row


_Family = tuple[list[_Sequence], _Sequence | None]  # sequences, and the prefix of all of them


def _sequences(
    rows: TokenRows, of: Sizes, *, ends: bool
) -> tuple[list[tuple[_Sequence, int]], list[tuple[_Sequence, int]], list[_Family]]:
    """The sequence and the place in it of each row's last prompt token and first response token.

    Also all sequences: those without a prefix, then the responses to each shared prompt.
    """
    wide, width = rows.shape[1], rows.prompt_width
    counts = of.response_tokens if ends else np.maximum(of.response_tokens - 1, 0)
    members = dict[int, list[int]]()
    for row, prompt in enumerate(of.prompt.tolist()):
        members.setdefault(prompt, []).append(row)
    count = len(of.prompt)
    prompts: list[tuple[_Sequence, int]] = [(_NONE, 0)] * count
    responses: list[tuple[_Sequence, int]] = [(_NONE, 0)] * count
    alone, families = list[_Sequence](), list[_Family]()
    for own in members.values():
        length = int(of.prompt_tokens[own[0]])
        first = _Sequence(own[0] * wide + width - length, length, 0)
        alone.append(first)
        family = list[_Sequence]()
        for row in own:
            prompts[row] = (first, length - 1)
            if len(own) == 1:
                first.length += int(counts[row])
                responses[row] = (first, length)
            else:
                one = _Sequence(row * wide + width, int(counts[row]), length)
                responses[row] = (one, 0)
                family.append(one)
        families.append((family, first))
    return prompts, responses, [(alone, None), *families]


_NONE = _Sequence(0, 0, 0)


def _buckets(family: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
    """Sequences of about the same length, longest first; empty ones are left out."""
    bucket, real = list[_Sequence](), 0
    for one in sorted(family, key=lambda one: -one.length):
        if not one.length:
            continue
        padded = (len(bucket) + 1) * (bucket[0].length if bucket else one.length)
        if bucket and padded > SLACK * (real + one.length):
            yield bucket
            bucket, real = [], 0
        bucket.append(one)
        real += one.length
    if bucket:
        yield bucket


def _block(bucket: Sequence[_Sequence], prefix: _Sequence | None, ragged: list[Tensor]) -> Block:
    return Block(
        start=bucket[0].start,
        count=sum(one.length for one in bucket),
        rows=len(bucket),
        width=bucket[0].length,
        prefix_start=0 if prefix is None else prefix.start,
        prefix=0 if prefix is None else prefix.length,
        spread=ragged[0] if ragged else None,
        gather=ragged[1] if ragged else None,
    )


def _ragged(bucket: Sequence[_Sequence]) -> list[Ints]:
    """Where the padded cells of a block take their token from, and where its tokens end up."""
    lengths = np.array([one.length for one in bucket])
    if (lengths == lengths[0]).all():
        return []
    columns = np.arange(lengths[0])
    begin = np.cumsum(lengths) - lengths
    spread = begin[:, None] + np.minimum(columns, lengths[:, None] - 1)
    return [spread.reshape(-1), (columns < lengths[:, None]).reshape(-1).nonzero()[0]]


def _runs(starts: Sequence[int], lengths: Sequence[int]) -> Ints:
    """``start, start + 1, …`` of each length, one after the other."""
    count = np.array(lengths, dtype=np.int64)
    return np.repeat(np.array(starts) - (count.cumsum() - count), count) + np.arange(count.sum())


Places = Sequence[tuple[_Sequence, int]]


def _states(
    of: Sizes, prompts: Places, responses: Places, width: int, *, ends: bool
) -> tuple[Ints, Ints, Ints, Ints]:
    """The cells of response tokens, the places before them and their own, and the last of a row."""
    counts = of.response_tokens
    row = np.repeat(np.arange(len(counts)), counts)
    column = _runs([0] * len(counts), counts.tolist())
    prompt, response = _at(prompts), _at(responses)
    before = np.where(column == 0, prompt[row], response[row] + column - 1)
    if not ends:
        return row * width + column, before, row[:0], row[:0]
    last = np.where(counts == 0, prompt, response + counts - 1)
    return row * width + column, before, response[row] + column, last


def _at(places: Places) -> Ints:
    return np.array([sequence.start + offset for sequence, offset in places], dtype=np.int64)


class _Indices:
    """Indices that go to a device together: each transfer costs more than its numbers."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._parts = device, list[Ints]()

    def add(self, index: Ints) -> int:
        """Take an index; its number among those that :meth:`moved` returns."""
        self._parts.append(index)
        return len(self._parts) - 1

    def moved(self) -> Sequence[Tensor]:
        """All of them, on the device."""
        whole = torch.from_numpy(np.concatenate(self._parts)).to(self._device)
        return whole.split([len(part) for part in self._parts])
