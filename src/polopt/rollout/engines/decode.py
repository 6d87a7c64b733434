"""A queue of responses, decoded token by token.

A *row* is a response; a *slot* is a row of the batch that the model sees. Rows that have ended make
room: waiting ones take their slots. The host looks at what was drawn after a stretch of tokens, for
each look waits for an accelerator; what a row draws beyond its end is thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.errors import ModelError
from polopt.models import LanguageModel, context_length
from polopt.roles.policies.proven import window
from polopt.rollout.engines.interface import Hear, Request
from polopt.rollout.engines.sampler import draw, processed_logits, uniforms
from polopt.types import Finish, Group, Sample, Span

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from polopt.rollout.engines.cache import RaggedCache

STRETCH = 16  # tokens between two looks at an accelerator
WHILE = 64  # tokens after which whoever waits for a group may do something else
PREFILL_BLOCK = 16
ROW_BLOCK = 16
REFILL_BELOW = 0.75  # share of slots with a row that goes on, below which the others are given up


def padded(rows: int, device: torch.device) -> int:
    """The number of slots that are decoded for ``rows`` responses.

    CPU matrix kernels give other bits below 4 rows a thread (twice that to be safe), and vector
    kernels in what is left over from whole blocks of 16 or 32 numbers.
    """
    if device.type != "cpu":
        return rows
    least = max(rows, 8 * torch.get_num_threads())
    return -(-least // ROW_BLOCK) * ROW_BLOCK


@dataclass
class Row:
    """A response, as far as it has come.

    ``versions`` are those of the weights that drew it, each with its first token.
    """

    request: Request
    sample: int
    tokens: list[int] = field(default_factory=list[int])
    logp: list[np.float32] = field(default_factory=list[np.float32])
    versions: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    stopped: bool = False

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return not self.stopped and len(self.tokens) < self.request.sampling.max_new_tokens

    @property
    def reach(self) -> int:
        """The column of the token that is fed next."""
        return len(self.request.prompt.tokens) - 1 + len(self.tokens)


@dataclass
class Slots:
    """What is decoded together, on the device; S slots."""

    cache: RaggedCache
    uniform: Tensor  # [S, limit] float64, the draws
    first: Tensor  # [S] column of the last token of the prompt
    next: Tensor  # [S] the token that is fed next
    position: Tensor  # [S] its column

    def keep(self, slots: Tensor) -> None:
        """Keep these only."""
        self.cache.keep(slots)
        for name in ("uniform", "first", "next", "position"):
            setattr(self, name, getattr(self, name)[slots])

    def join(self, other: Slots) -> None:
        """Take in others."""
        self.cache.join(other.cache)
        for name in ("uniform", "first", "next", "position"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))


class Decode:
    """Responses to requests that share sampling parameters, at most ``rows`` of them at once.

    Raises:
        ModelError: prompt and response outgrow a sliding window.
    """

    def __init__(
        self, language_model: LanguageModel, requests: Sequence[Request], rows: int
    ) -> None:
        self._of, self._most = language_model, rows
        self.sampling = requests[0].sampling
        self._device = language_model.model.device
        self._groups, self._waiting = list[list[Row]](), deque[Row]()
        self._slots: Slots | None = None
        self._row_of: list[Row | None] = []  # of each slot; None: a filler, which repeats another
        self.add(requests)

    def add(self, requests: Sequence[Request]) -> None:
        """Take in more requests, with the same sampling parameters."""
        longest = max(len(request.prompt.tokens) for request in requests)
        _check_window(self._of.model, longest + self.sampling.max_new_tokens)
        groups = [[Row(request, i) for i in range(request.count)] for request in requests]
        self._groups.extend(groups)
        self._waiting.extend(row for group in groups for row in group)

    @property
    def requests(self) -> list[Request]:
        """What is not answered yet."""
        return [rows[0].request for rows in self._groups]

    def advance(self, version: int, heard: Hear | None = None) -> list[Group]:
        """Decode until a group is done, or for a while; the groups that got done.

        Args:
            version: of the policy.
            heard: gets the first row after each token.
        """
        stretch = 1 if heard is not None or self._device.type == "cpu" else STRETCH
        for _ in range(WHILE // stretch):
            if not self._filled():
                break
            self._decode(stretch, version)
            if heard is not None:
                heard(self._groups[0][0].tokens)
            if any(not any(row.going for row in rows) for rows in self._groups):
                break
        done = [rows for rows in self._groups if not any(row.going for row in rows)]
        self._groups = [rows for rows in self._groups if any(row.going for row in rows)]
        return [_group(rows) for rows in done]

    def _filled(self) -> bool:
        """Let finished rows leave and waiting ones in, once enough finished; False: all have."""
        going = [slot for slot, row in enumerate(self._row_of) if row is not None and row.going]
        if not (going or self._waiting):
            return False
        left = len(going) if self._waiting else padded(len(going), self._device)
        if going and left > REFILL_BELOW * len(self._row_of):
            return True
        room = min(len(self._waiting), self._most - len(going))
        more = [self._waiting.popleft() for _ in range(room)]
        rows = [*(self._row_of[slot] for slot in going), *more]
        fillers = padded(len(rows), self._device) - len(rows)
        # First: the cache of those that go, and of those that come, is as large as one of all.
        self._keep(going if more else [*going, *going[:1] * fillers])
        if more:
            self._join(self._read(more, fillers))
        self._row_of = [*rows, *[None] * fillers]
        return True

    def _keep(self, slots: Sequence[int]) -> None:
        """Keep these only; the memory of the others is free."""
        if not slots:
            self._slots = None
        elif self._slots is not None:
            self._slots.keep(self._moved(slots))

    def _join(self, new: Slots) -> None:
        """Take in others."""
        if self._slots is None:
            self._slots = new
        else:
            self._slots.join(new)

    def _decode(self, stretch: int, version: int) -> None:
        """Draw some tokens for every slot; then look at them."""
        going = [row for row in self._row_of if row is not None and row.going]
        reach, least = max(row.reach for row in going), min(len(row.tokens) for row in going)
        most = self.sampling.max_new_tokens - least
        drawn = [self._step(reach + i, least + i) for i in range(min(stretch, most))]
        tokens, logp = (torch.stack(column) for column in zip(*drawn, strict=True))
        # One read for both: log-probs travel by their bits.
        seen = torch.stack([tokens.int(), logp.view(torch.int32)]).cpu().numpy()
        for slot, row in enumerate(self._row_of):
            if row is not None and row.going:
                if not row.versions or row.versions[-1][0] != version:
                    row.versions.append((version, len(row.tokens)))
                self._take(row, seen[0, :, slot].tolist(), seen[1, :, slot].view(np.float32))

    def _step(self, reach: int, least: int) -> tuple[Tensor, Tensor]:
        """One token for every slot and its log-prob.

        Args:
            reach: the last column that any row uses.
            least: tokens that every row has at least.
        """
        slots, sampling = self._slots, self.sampling
        assert slots is not None, "filled"
        logits = self._of.model(
            input_ids=slots.next[:, None],
            position_ids=slots.position[:, None],
            attention_mask=slots.cache.at(slots.position, reach),
            past_key_values=slots.cache,
            use_cache=True,
        ).logits[:, -1]
        so_far = slots.position - slots.first
        early = so_far < sampling.min_new_tokens if least < sampling.min_new_tokens else None
        logits = processed_logits(logits, sampling, early, self._of.stop_ids)
        uniform = slots.uniform.gather(1, so_far[:, None])[:, 0]
        token, logp = draw(logits, uniform, greedy=sampling.temperature == 0)
        slots.next = token
        # Until the host looks, a row goes on beyond its end, where it feeds its last column anew.
        slots.position = torch.minimum(
            slots.position + 1, slots.first + sampling.max_new_tokens - 1
        )
        return token, logp

    def _take(self, row: Row, tokens: Sequence[int], logp: NDArray[np.float32]) -> None:
        """Give a row what was drawn for it, as far as its end."""
        for token, value in zip(tokens, logp, strict=True):
            if not row.going:
                return
            row.tokens.append(token)
            row.logp.append(value)
            row.stopped = token in self._of.stop_ids or self._says_stop(row.tokens)

    def _says_stop(self, tokens: list[int]) -> bool:
        if not self.sampling.stop:
            return False
        text = cast(str, self._of.tokenizer.decode(tokens))
        return any(stop in text for stop in self.sampling.stop)

    def _read(self, rows: Sequence[Row], fillers: int) -> Slots:
        """Slots for rows that begin, and some that repeat the first; a prompt is read once."""
        requests, owner = list[Request](), list[int]()
        for row in rows:
            if not requests or requests[-1] is not row.request:
                requests.append(row.request)
            owner.append(len(requests) - 1)
        owner += [0] * fillers
        limit = self.sampling.max_new_tokens
        draws = [
            uniforms(one.seed, one.ticket, row.sample, limit, one.position)
            for row in rows
            for one in [row.request]
        ]
        prompts = [request.prompt.tokens for request in requests]
        first = self._moved([len(prompts[i]) - 1 for i in owner])
        return Slots(
            cache=_prefill(self._of, prompts, self._moved(owner), first, limit),
            uniform=self._moved(np.stack([*draws, *draws[:1] * fillers])),
            first=first,
            next=self._moved([prompts[i][-1] for i in owner]),
            position=first,
        )

    def _moved(self, numbers: Sequence[int] | NDArray[Any]) -> Tensor:
        """Numbers on the device; nobody waits for them."""
        return torch.tensor(numbers).to(self._device, non_blocking=True)


def _prefill(
    language_model: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    request_of: Tensor,
    lengths: Tensor,
    limit: int,
) -> RaggedCache:
    """Read every prompt once, all but its last token, which the first step feeds."""
    from transformers import DynamicCache

    from polopt.rollout.engines.cache import blocks, ragged

    model = language_model.model
    longest = max(len(prompt) for prompt in prompts)
    width = -(-longest // PREFILL_BLOCK) * PREFILL_BLOCK
    width = min(width, context_length(language_model))
    pad = cast(int, language_model.tokenizer.pad_token_id)
    tokens = np.full((len(prompts), width), pad)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt) - 1] = prompt[:-1]
    given = torch.from_numpy(tokens).to(model.device, non_blocking=True)
    cache = DynamicCache()
    # Padding stands after the text, so the causal mask alone keeps it out.
    model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return ragged(cache, request_of, lengths, blocks(max(longest + limit, width)))


def _check_window(model: PreTrainedModel, columns: int) -> None:
    """Refuse rows that outgrow a sliding window or a chunk: the ragged cache shows every column."""
    if (most := window(model)) < columns:
        raise ModelError(
            f"model.path: the model looks back {most} tokens; prompt and response may take "
            f"{columns}, and the local engine needs all of them in view"
        )


def _group(rows: Sequence[Row]) -> Group:
    """The rows of a request as samples."""
    request = rows[0].request
    return Group(request.ticket, request.prompt, tuple(map(_sample, rows)))


def _sample(row: Row) -> Sample:
    prompt = row.request.prompt.tokens
    start, end = len(prompt), len(prompt) + len(row.tokens)
    ends = [first for _, first in row.versions[1:]]
    return Sample(
        tokens=np.array([*prompt, *row.tokens], dtype=np.int64),
        mask=np.arange(end) >= start,
        logp_rollout=np.array([*[np.nan] * start, *row.logp], dtype=np.float32),
        prompt_length=start,
        spans=tuple(
            Span(version, start + first, start + last)
            for (version, first), last in zip(row.versions, [*ends, len(row.tokens)], strict=True)
        ),
        finish=Finish.STOP if row.stopped else Finish.LENGTH,
        sampling=row.request.sampling,
    )
