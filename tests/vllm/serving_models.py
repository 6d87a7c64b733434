"""What the tests of vLLM share: models, requests, and log-probs by a plain forward pass."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from polopt.models import LanguageModel, load
from polopt.rollout.engines import Request
from polopt.rollout.engines.sampler import processed_logits
from polopt.types import Group, Prompt, Sample, Sampling

TOLERANCE = 1e-4  # nats, in float32


def small() -> LanguageModel:
    """A Llama whose head is tied to its embeddings."""
    torch.set_num_threads(1)
    return load("builtin:small", seed=3)


def request(ticket: int, length: int = 4, count: int = 2, **sampling: object) -> Request:
    tokens = tuple(5 + (7 * place + ticket) % 200 for place in range(length))
    return Request(ticket, Prompt(ticket, "", tokens), count, Sampling(**sampling), seed=1)


def weights(model: LanguageModel) -> Mapping[str, torch.Tensor]:
    return dict(model.model.named_parameters())


@torch.no_grad()
def change(model: LanguageModel, seed: int) -> None:
    """Other weights, by enough to see it in every log-prob."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def plain(model: LanguageModel, sample: Sample) -> torch.Tensor:
    """The log-probs of a response by one forward pass, under what it was sampled with."""
    start, sampling = sample.prompt_length, sample.sampling
    tokens = torch.tensor(sample.tokens)
    logits = model.model(tokens[None]).logits[0, start - 1 : -1]
    early = torch.arange(len(logits)) < sampling.min_new_tokens
    logp = processed_logits(logits, sampling, early, model.stop_ids)
    return logp.log_softmax(-1).gather(-1, tokens[start:, None])[:, 0]


def given(sample: Sample) -> torch.Tensor:
    """The log-probs of a response as the engine gave them."""
    return torch.tensor(sample.logp_rollout[sample.prompt_length :])


def farthest(model: LanguageModel, groups: Sequence[Group]) -> float:
    """The largest difference between the engine's log-probs and plain ones."""
    samples = [sample for group in groups for sample in group.samples]
    return max(float((plain(model, one) - given(one)).abs().max()) for one in samples)


def gone(process: int, seconds: float = 15) -> bool:
    """Whether a process has ended, or does within some seconds."""
    end = time.monotonic() + seconds
    while (running := _runs(process)) and time.monotonic() < end:
        time.sleep(0.1)
    return not running


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(process: int) -> list[int]:
    """The processes that descend from one."""
    found = list[int]()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found
