"""The engine in this process: it decodes with the very module that is trained.

A prompt is read once for its whole group, rows that finished leave the batch, and results do not
depend on which rows are decoded together: draws are seeded per row, the cache is ragged, and the
batch comes in sizes at which CPU kernels keep their bits. (The last bits of a mixture of experts
depend on the batch all the same, for that decides how many rows meet in an expert; so do those of
any model where 3, 5 or 6 threads cut long vectors anywhere.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from polopt.errors import ModelError
from polopt.models import LanguageModel, context_length
from polopt.rollout.engines.interface import Request
from polopt.rollout.engines.proof import prove
from polopt.rollout.engines.sampler import draw, processed_logits, uniforms
from polopt.types import Finish, Group, Sample, Sampling, Span

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from polopt.rollout.engines.cache import RaggedCache

MAX_ROWS = 512  # decoded together; more wait for the next poll
PREFILL_BLOCK = 16
ROW_BLOCK = 16
COMPACT_BELOW = 0.75  # share of live rows below which the finished ones leave


def padded(rows: int) -> int:
    """How many rows are decoded for ``rows`` that are wanted; the fillers repeat one of them.

    CPU matrix kernels give other bits below 4 rows a thread (twice that to be safe), and vector
    kernels in what is left over from whole blocks of 16 or 32 numbers.
    """
    least = max(rows, 8 * torch.get_num_threads())
    return -(-least // ROW_BLOCK) * ROW_BLOCK


def _row_independent_attention(device: str) -> AbstractContextManager[object]:
    """The CPU's flash kernel gives a row other bits on another thread; plain products do not."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


class LocalEngine:
    """Generation in this process on the weights of ``language_model`` (an alias, no copy).

    Raises:
        ModelError: an architecture that cannot be decoded with a ragged cache.
    """

    def __init__(self, language_model: LanguageModel, *, seed: int, autocast: bool = False) -> None:
        self._language_model = language_model
        self._seed = seed
        self._autocast = autocast
        self._queue: list[Request] = []
        self._version = 0
        prove(self, language_model, autocast=autocast)

    @property
    def version(self) -> int:
        """Of the weights being served."""
        return self._version

    def update(self, version: int) -> None:
        """The weights are shared, so only their version changes hands."""
        self._version = version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue work."""
        self._queue.extend(requests)

    def poll(self) -> list[Group]:
        """Decode queued requests of one sampling distribution, as many as fit; [] when idle."""
        if not self._queue:
            return []
        sampling = self._queue[0].sampling
        taken, left = list[Request](), list[Request]()
        rows = 0
        for request in self._queue:
            fits = not taken or rows + request.count <= MAX_ROWS
            if request.sampling == sampling and fits:
                taken.append(request)
                rows += request.count
            else:
                left.append(request)
        self._queue = left
        device = self._language_model.model.device.type
        with (
            torch.inference_mode(),
            _row_independent_attention(device),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast),
        ):
            rows_decoded = _Decode(self._language_model, taken, self._seed).run()
        return _groups(taken, rows_decoded, self._version)


@dataclass(frozen=True)
class _Response:
    tokens: list[int]
    logp: list[float]
    finish: Finish


class _Decode:
    """The state of one batch of rows while it is decoded."""

    def __init__(self, language_model: LanguageModel, requests: list[Request], seed: int) -> None:
        self.language_model = language_model
        self.model = language_model.model
        self.tokenizer: PreTrainedTokenizerBase = language_model.tokenizer
        self.sampling: Sampling = requests[0].sampling
        device = self.model.device
        self.stop_ids = torch.tensor(language_model.stop_ids, device=device)
        prompts = [request.prompt.tokens for request in requests]
        self.limit = self.sampling.max_new_tokens
        self.owner = [i for i, request in enumerate(requests) for _ in range(request.count)]
        self.rows = len(self.owner)
        self.uniform = torch.tensor(
            np.stack(
                [
                    uniforms(seed, request.ticket, sample, self.limit)
                    for request in requests
                    for sample in range(request.count)
                ]
            ),
            device=device,
        )
        self.tokens = torch.zeros(self.rows, self.limit, dtype=torch.long, device=device)
        self.logp = torch.zeros(self.rows, self.limit, device=device)
        self.length = torch.zeros(self.rows, dtype=torch.long, device=device)
        self.stopped = torch.zeros(self.rows, dtype=torch.bool, device=device)
        filler = [0] * (padded(self.rows) - self.rows)
        self.live = torch.tensor([*range(self.rows), *filler], device=device)  # row of each slot
        source = torch.tensor(self.owner, device=device)[self.live]
        self.cache = self._prefill(prompts, source)
        self.next = torch.tensor([p[-1] for p in prompts], device=device)[source]
        self.position = torch.tensor([len(p) - 1 for p in prompts], device=device)[source]

    def _prefill(self, prompts: list[tuple[int, ...]], source: torch.Tensor) -> RaggedCache:
        """Read every prompt once, all but its last token, which the first step feeds."""
        from transformers import DynamicCache

        from polopt.rollout.engines.cache import blocks, ragged

        longest = max(len(prompt) for prompt in prompts)
        _check_window(self.model, longest + self.limit)
        width = -(-longest // PREFILL_BLOCK) * PREFILL_BLOCK
        width = min(width, context_length(self.language_model))
        pad = cast(int, self.tokenizer.pad_token_id)
        padded = torch.full((len(prompts), width), pad, device=self.model.device)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt) - 1] = torch.tensor(prompt[:-1], dtype=torch.long)
        cache = DynamicCache()
        # Padding stands after the text, so the causal mask alone keeps it out.
        self.model(input_ids=padded, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return ragged(cache, source, blocks(max(longest + self.limit, width)))

    def run(self) -> list[_Response]:
        """Decode until every row has stopped or reached the limit."""
        for step in range(self.limit):
            token, logp = self._step(step)
            self._record(step, token, logp)
            if bool(self.stopped.all()):
                break
            self._compact()
        tokens, logp = self.tokens.tolist(), self.logp.tolist()
        return [
            _Response(tokens[i][:n], logp[i][:n], Finish.STOP if stopped else Finish.LENGTH)
            for i, (n, stopped) in enumerate(
                zip(self.length.tolist(), self.stopped.tolist(), strict=True)
            )
        ]

    def _step(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One token for every slot and its log-prob."""
        visible = self.cache.at(self.position)
        logits = self.model(
            input_ids=self.next[:, None],
            position_ids=self.position[:, None],
            # Added to the scores: what every attention, eager ones too, takes a mask for.
            attention_mask=torch.zeros(visible.shape, device=visible.device).masked_fill(
                ~visible, -torch.inf
            ),
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        forbidden = None
        if step < self.sampling.min_new_tokens:
            forbidden = torch.zeros_like(logits, dtype=torch.bool)
            forbidden[:, self.stop_ids] = True
        logits = processed_logits(logits, self.sampling, forbidden)
        greedy = self.sampling.temperature == 0
        return draw(logits, self.uniform[self.live, step], greedy=greedy)

    def _record(self, step: int, token: torch.Tensor, logp: torch.Tensor) -> None:
        """Write what was drawn for the rows that were still going; move them on."""
        going = ~self.stopped[self.live]
        rows = self.live[going]
        self.tokens[rows, step] = token[going]
        self.logp[rows, step] = logp[going]
        self.length[rows] = step + 1
        self.stopped[rows] = torch.isin(token[going], self.stop_ids)
        if self.sampling.stop:
            self._stop_at_strings(rows)
        self.next = token
        room = self.cache.rows[0].get_max_length() - 1
        self.position = torch.where(going, self.position + 1, self.position).clamp(max=room)

    def _stop_at_strings(self, rows: torch.Tensor) -> None:
        for row in set(rows.tolist()):
            text = cast(str, self.tokenizer.decode(self.tokens[row, : int(self.length[row])]))
            if any(stop in text for stop in self.sampling.stop):
                self.stopped[row] = True

    def _compact(self) -> None:
        """Let finished rows leave when enough of them have."""
        going = ~self.stopped[self.live]
        count = padded(int(going.sum()))
        if count > COMPACT_BELOW * len(self.live):
            return
        keep = torch.argsort(~going, stable=True)[:count]
        self.cache.keep(keep)
        self.live, self.next, self.position = self.live[keep], self.next[keep], self.position[keep]


def _check_window(model: PreTrainedModel, columns: int) -> None:
    """Refuse rows that outgrow a sliding window or a chunk: the ragged cache shows every column."""
    config = model.config.get_text_config()
    if set(getattr(config, "layer_types", None) or ()) == {"full_attention"}:
        return
    names = ("sliding_window", "attention_chunk_size", "window_size")
    widths = [width for name in names if isinstance(width := getattr(config, name, None), int)]
    if widths and min(widths) < columns:
        raise ModelError(
            f"model.path: the model looks back {min(widths)} tokens; prompt and response may take "
            f"{columns}, and the local engine needs all of them in view"
        )


def _groups(requests: list[Request], responses: list[_Response], version: int) -> list[Group]:
    groups = list[Group]()
    rest = iter(responses)
    for request in requests:
        samples = tuple(_sample(request, next(rest), version) for _ in range(request.count))
        groups.append(Group(request.ticket, request.prompt, samples))
    return groups


def _sample(request: Request, response: _Response, version: int) -> Sample:
    start = len(request.prompt.tokens)
    end = start + len(response.tokens)
    logp = np.full(end, np.nan, dtype=np.float32)
    logp[start:] = response.logp
    return Sample(
        tokens=np.array([*request.prompt.tokens, *response.tokens], dtype=np.int64),
        mask=np.arange(end) >= start,
        logp_rollout=logp,
        prompt_length=start,
        spans=(Span(version, start, end),),
        finish=response.finish,
        sampling=request.sampling,
    )
