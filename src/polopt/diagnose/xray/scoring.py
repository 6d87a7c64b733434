"""Two language models read the same answers: what each of them made of every token.

    p = softmax(z/τ) of the model before, q of the model after;   KL(q‖p) = Σ q (log q - log p)

The sum runs over the whole vocabulary at every token, so the KL is exact; nothing is estimated from
the token that happens to stand there. Logits of both are made for a few tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.math.divergence import entropy_of_logs, kl_divergence_of_logs
from polopt.memory.logits import at_once
from polopt.models import LanguageModel
from polopt.roles import micro_batches, padded
from polopt.roles.policies.parts import in_parts
from polopt.roles.policies.proven import proven
from polopt.roles.policies.trunk import Computing
from polopt.types import RowIndex, Sample, TokenRows

TOKENS = 4096  # in one pass; hidden states of all of them are held, logits of a few
PLAIN = Computing()  # float32: a difference of two models must not be one of rounding
Numbers = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """What two models made of the T tokens of one answer that a policy would be trained on.

    Example: at a token that the model before gave 0.6 and the one after 0.9, both as their
    likeliest, ``log_before = -0.51``, ``log_after = -0.11`` and both ranks are 1.
    """

    log_before: Numbers  # log p of the token that stands there
    log_after: Numbers
    rank_before: Ints  # 1: the likeliest token; tokens that are as likely do not count
    rank_after: Ints
    entropy_before: Numbers  # of the distribution over the vocabulary, in nats
    entropy_after: Numbers
    kl: Numbers  # KL(after‖before) over the vocabulary, in nats
    top_before: Ints  # the likeliest token
    top_after: Ints


@dataclass(frozen=True)
class Drawn:
    """The distribution that is compared: the one that the sampler drew from."""

    temperature: float = 1.0
    min_new_tokens: int = 0  # no end of the answer before this token


@torch.no_grad()
def compared(
    before: LanguageModel,
    after: LanguageModel,
    samples: Sequence[Sample],
    drawn: Drawn,
    done: Callable[[int, int], None] = lambda _, __: None,
) -> list[Compared]:
    """Teacher forcing of two models on the same token ids.

    Args:
        before: the base.
        after: the trained model, with the same vocabulary, on the same device.
        samples: answers to prompts; each has a token.
        drawn: how both turn logits into probabilities.
        done: told after every pass how many answers are read, and of how many.
    """
    ids = [(one.tokens[: one.prompt_length], one.tokens[one.prompt_length :]) for one in samples]
    prompts, responses = zip(*ids, strict=True)
    device, pad_id = after.model.device, cast(int, after.tokenizer.pad_token_id)
    rows = padded(prompts, responses, pad_id=pad_id, device=device)
    headless = any(proven(one.model).head is None for one in (before, after))
    found = dict[int, Compared]()
    for part in micro_batches(rows, 1 if headless else TOKENS):
        numbers = torch.arange(len(samples))[_on_host(part)].tolist()
        columns = _pass(before, after, rows.rows(part), drawn).cpu().numpy()
        lengths = [len(samples[n].tokens) - samples[n].prompt_length for n in numbers]
        for n, own in zip(numbers, np.split(columns, np.cumsum(lengths)[:-1], axis=1), strict=True):
            found[n] = _of(own[:, samples[n].mask[samples[n].prompt_length :]])
        done(len(found), len(samples))
    return [found[n] for n in range(len(samples))]


def _on_host(part: RowIndex) -> RowIndex:
    return part.cpu() if isinstance(part, Tensor) else part


def _of(columns: Numbers) -> Compared:
    return Compared(
        log_before=columns[0],
        log_after=columns[1],
        rank_before=columns[2].astype(np.int64),
        rank_after=columns[3].astype(np.int64),
        entropy_before=columns[4],
        entropy_after=columns[5],
        kl=columns[6],
        top_before=columns[7].astype(np.int64),
        top_after=columns[8].astype(np.int64),
    )


def _pass(before: LanguageModel, after: LanguageModel, rows: TokenRows, drawn: Drawn) -> Tensor:
    """The columns of :class:`Compared` for all response tokens of some rows, [9, n], row by row."""
    real = rows.attention[:, rows.prompt_width :]
    places = real.flatten().nonzero()[:, 0]
    tokens = rows.tokens[:, rows.prompt_width :].flatten()[places]
    rows = replace(rows, temperature=drawn.temperature, min_new_tokens=drawn.min_new_tokens)
    p, q = (
        in_parts(one.model, rows, places, stop_ids=one.stop_ids, how=PLAIN)
        for one in (before, after)
    )
    parts = [measured(p(cut), q(cut), tokens[cut]) for cut in _cuts(len(places), before, after)]
    return torch.cat(parts, dim=1)


def _cuts(count: int, before: LanguageModel, after: LanguageModel) -> Iterator[slice]:
    """The tokens whose logits are made at once."""
    vocabulary = max(one.model.config.get_text_config().vocab_size for one in (before, after))
    size = at_once(vocabulary, after.model.device.type)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def measured(before: Tensor, after: Tensor, tokens: Tensor) -> Tensor:
    """The columns of :class:`Compared`, [9, n], from the logits [n, V] of both and the tokens."""
    log_p, log_q = (torch.log_softmax(z, dim=-1) for z in (before, after))
    at = tokens[:, None]
    columns = [
        log_p.gather(-1, at)[:, 0],
        log_q.gather(-1, at)[:, 0],
        1 + (before > before.gather(-1, at)).sum(-1),
        1 + (after > after.gather(-1, at)).sum(-1),
        entropy_of_logs(log_p),
        entropy_of_logs(log_q),
        kl_divergence_of_logs(log_q, log_p).clamp(min=0.0),  # below 0 it is rounding
        before.argmax(-1),
        after.argmax(-1),
    ]
    return torch.stack([column.double() for column in columns])
