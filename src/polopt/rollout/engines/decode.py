"""One batch of responses, decoded token by token.

A *row* is a response; a *slot* is a row of the batch that the model sees. ``live`` says which row
each slot holds: at first all of them, then ever fewer, and always some fillers that repeat one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.errors import ModelError
from polopt.models import LanguageModel, context_length
from polopt.rollout.engines.interface import Hear, Request
from polopt.rollout.engines.sampler import draw, processed_logits, uniforms
from polopt.types import Finish, Group, Sample, Span

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from polopt.rollout.engines.cache import RaggedCache

PREFILL_BLOCK = 16
ROW_BLOCK = 16
COMPACT_BELOW = 0.75  # share of live rows below which the finished ones leave


def padded(rows: int) -> int:
    """The number of slots that are decoded for ``rows`` responses.

    CPU matrix kernels give other bits below 4 rows a thread (twice that to be safe), and vector
    kernels in what is left over from whole blocks of 16 or 32 numbers.
    """
    least = max(rows, 8 * torch.get_num_threads())
    return -(-least // ROW_BLOCK) * ROW_BLOCK


class Decode:
    """The state of a batch while it is decoded; its requests share sampling parameters.

    Raises:
        ModelError: prompt and response outgrow a sliding window.
    """

    def __init__(self, language_model: LanguageModel, requests: list[Request]) -> None:
        self._model, self._tokenizer = language_model.model, language_model.tokenizer
        self._requests, self._sampling = requests, requests[0].sampling
        self._limit = self._sampling.max_new_tokens
        device = self._model.device
        self._stop_ids = torch.tensor(language_model.stop_ids, device=device)

        # Of each row: its draws, and what it has so far.
        owner = [i for i, request in enumerate(requests) for _ in range(request.count)]
        draws = [
            uniforms(r.seed, r.ticket, i, self._limit) for r in requests for i in range(r.count)
        ]
        rows = len(owner)
        self._uniform = torch.tensor(np.stack(draws), device=device)
        self._tokens = torch.zeros(rows, self._limit, dtype=torch.long, device=device)
        self._logp = torch.zeros(rows, self._limit, device=device)
        self._length = torch.zeros(rows, dtype=torch.long, device=device)
        self._stopped = torch.zeros(rows, dtype=torch.bool, device=device)

        # Of each slot: its row, the token it feeds next and the column of that token.
        filler = [0] * (padded(rows) - rows)
        self._live = torch.tensor([*range(rows), *filler], device=device)
        request_of = torch.tensor(owner, device=device)[self._live]
        prompts = [request.prompt.tokens for request in requests]
        self._cache = _prefill(language_model, prompts, request_of, self._limit)
        self._next = torch.tensor([p[-1] for p in prompts], device=device)[request_of]
        self._position = torch.tensor([len(p) - 1 for p in prompts], device=device)[request_of]

    def run(self, version: int, heard: Hear | None = None) -> list[Group]:
        """Decode until every row has stopped or reached the limit.

        Args:
            version: of the policy.
            heard: gets the first row after each token.
        """
        for step in range(self._limit):
            token, logp = self._step(step)
            self._record(step, token, logp)
            if heard is not None:
                heard(self._tokens[0, : int(self._length[0])].tolist())
            if bool(self._stopped.all()):
                break
            self._compact()
        return self._groups(version)

    def _step(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One token for every slot and its log-prob."""
        visible = self._cache.at(self._position)
        # Added to the attention scores: every attention takes such a mask, eager ones too.
        mask = torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -torch.inf)
        logits = self._model(
            input_ids=self._next[:, None],
            position_ids=self._position[:, None],
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        forbidden = self._stop_ids if step < self._sampling.min_new_tokens else None
        logits = processed_logits(logits, self._sampling, forbidden)
        greedy = self._sampling.temperature == 0
        return draw(logits, self._uniform[self._live, step], greedy=greedy)

    def _record(self, step: int, token: torch.Tensor, logp: torch.Tensor) -> None:
        """Write what was drawn for the rows that were still going; move them on."""
        going = ~self._stopped[self._live]
        rows = self._live[going]
        self._tokens[rows, step] = token[going]
        self._logp[rows, step] = logp[going]
        self._length[rows] = step + 1
        self._stopped[rows] = torch.isin(token[going], self._stop_ids)
        if self._sampling.stop:
            self._stop_at_strings(rows)
        self._next = token
        room = self._cache.rows[0].get_max_length() - 1
        self._position = torch.where(going, self._position + 1, self._position).clamp(max=room)

    def _stop_at_strings(self, rows: torch.Tensor) -> None:
        for row in set(rows.tolist()):
            text = cast(str, self._tokenizer.decode(self._tokens[row, : int(self._length[row])]))
            if any(stop in text for stop in self._sampling.stop):
                self._stopped[row] = True

    def _compact(self) -> None:
        """Drop finished rows once enough of them have stopped."""
        going = ~self._stopped[self._live]
        count = padded(int(going.sum()))
        if count > COMPACT_BELOW * len(self._live):
            return
        keep = torch.argsort(~going, stable=True)[:count]
        self._cache.keep(keep)
        self._live, self._next = self._live[keep], self._next[keep]
        self._position = self._position[keep]

    def _groups(self, version: int) -> list[Group]:
        """The rows as samples, request by request."""
        tokens, logp = self._tokens.cpu().numpy(), self._logp.cpu().numpy()
        lengths, stopped = self._length.tolist(), self._stopped.tolist()
        groups, row = list[Group](), 0
        for request in self._requests:
            samples = tuple(
                _sample(request, tokens[i, :n], logp[i, :n], stopped[i], version)
                for i, n in enumerate(lengths[row : row + request.count], row)
            )
            groups.append(Group(request.ticket, request.prompt, samples))
            row += request.count
        return groups


def _prefill(
    language_model: LanguageModel,
    prompts: list[tuple[int, ...]],
    request_of: torch.Tensor,
    limit: int,
) -> RaggedCache:
    """Read every prompt once, all but its last token, which the first step feeds."""
    from transformers import DynamicCache

    from polopt.rollout.engines.cache import blocks, ragged

    model = language_model.model
    longest = max(len(prompt) for prompt in prompts)
    _check_window(model, longest + limit)
    width = -(-longest // PREFILL_BLOCK) * PREFILL_BLOCK
    width = min(width, context_length(language_model))
    pad = cast(int, language_model.tokenizer.pad_token_id)
    tokens = torch.full((len(prompts), width), pad, device=model.device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt) - 1] = torch.tensor(prompt[:-1], dtype=torch.long)
    cache = DynamicCache()
    # Padding stands after the text, so the causal mask alone keeps it out.
    model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return ragged(cache, request_of, blocks(max(longest + limit, width)))


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


def _sample(
    request: Request,
    tokens: NDArray[np.int64],
    logp: NDArray[np.float32],
    stopped: bool,
    version: int,
) -> Sample:
    start = len(request.prompt.tokens)
    end = start + len(tokens)
    return Sample(
        tokens=np.concatenate([np.array(request.prompt.tokens, dtype=np.int64), tokens]),
        mask=np.arange(end) >= start,
        logp_rollout=np.concatenate([np.full(start, np.nan, dtype=np.float32), logp]),
        prompt_length=start,
        spans=(Span(version, start, end),),
        finish=Finish.STOP if stopped else Finish.LENGTH,
        sampling=request.sampling,
    )
