"""Groups of responses as tensors, and what they say about the rollout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from polopt.roles import padded
from polopt.types import Batch, Experience, Finish, Group, Metrics, Outcome, Sample

S = TypeVar("S", np.bool_, np.float32)
UNTRAINED = {Finish.ABORTED, Finish.ERROR}
JUDGED = {Outcome.OK, Outcome.WRONG}


def experience(batch: Batch, *, pad_id: int, device: torch.device) -> Experience:
    """The batch as tensors, rows in ticket order: prompts left-padded, responses right-padded."""
    rows = [(group, sample) for group in batch.groups for sample in group.samples]
    samples = [sample for _, sample in rows]
    greedy = [group.greedy for group, _ in rows if group.greedy is not None]
    tokens = padded(
        [s.tokens[: s.prompt_length] for s in samples],
        [s.tokens[s.prompt_length :] for s in samples],
        pad_id=pad_id,
        device=device,
    )
    width = tokens.width
    sampling = samples[0].sampling
    return Experience(
        mask=_tensor(_responses([s.mask for s in samples], samples, width, False), device),
        group=torch.tensor([group.ticket for group, _ in rows], device=device),
        scores=_scores(samples, device),
        parts={name: _scores(samples, device, name) for name in reward_names(samples)},
        greedy_scores=_scores(greedy, device) if greedy else None,
        logp_rollout=_tensor(
            _responses([s.logp_rollout for s in samples], samples, width, np.nan), device
        ),
        token_rewards=_token_rewards(samples, width, device),
        truncated=torch.tensor([s.finish is Finish.LENGTH for s in samples], device=device),
        right=torch.tensor([_right(s) for s in samples], dtype=torch.float32, device=device),
        tokens=replace(
            tokens, temperature=sampling.temperature, min_new_tokens=sampling.min_new_tokens
        ),
    )


def _scores(
    samples: Sequence[Sample], device: torch.device, part: str | None = None
) -> torch.Tensor:
    """Rewards, or one part of them; NaN where a response must not count."""
    rewards = [
        math.nan
        if s.finish in UNTRAINED
        else s.reward
        if part is None
        else s.parts.get(part, math.nan)
        for s in samples
    ]
    return torch.tensor(rewards, dtype=torch.float32, device=device)


def reward_names(samples: Sequence[Sample]) -> list[str]:
    """The rewards that apply to any of the responses."""
    return sorted({name for s in samples for name in s.parts})


def _token_rewards(
    samples: Sequence[Sample], width: int, device: torch.device
) -> torch.Tensor | None:
    """Where the rewards stand, if one of them says so; the others are as good as at the end."""
    given = [s.token_rewards for s in samples if s.token_rewards is not None]
    if len(given) < len(samples):
        return None
    return _tensor(_responses(given, samples, width, np.nan), device)


def _right(sample: Sample) -> float:
    """1 or 0 as the outcome says; NaN where there is none, and in a response not trained on."""
    judged = sample.outcome in JUDGED and sample.finish not in UNTRAINED
    return float(sample.outcome is Outcome.OK) if judged else math.nan


def informative(least: float, most: float) -> Callable[[Group], bool]:
    """Whether a group has contrast, and from ``least`` to ``most`` of its answers are right.

    PRIME 2502.01456 keeps prompts of medium difficulty. Where nothing is judged, contrast is all.
    """

    def keep(group: Group) -> bool:
        marks = [s.outcome is Outcome.OK for s in group.samples if s.outcome in JUDGED]
        return has_contrast(group) and (not marks or least <= statistics.fmean(marks) <= most)

    return keep


def has_contrast(group: Group) -> bool:
    """Whether the responses to a prompt earned differently (DAPO 2503.14476, Eq. 11).

    By the rewards as they were given, before any penalty for length; below 1e-6 it is rounding.
    The greedy response counts where there is one: the others are compared with it.
    """
    responses = group.samples if group.greedy is None else (*group.samples, group.greedy)
    rewards = [s.reward for s in responses if s.reward == s.reward]
    return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


def rollout_metrics(batch: Batch) -> Metrics:
    """Rewards, accuracy, lengths and policy lag of a batch of sampled groups."""
    samples = [sample for group in batch.groups for sample in group.samples]
    rewards = [s.reward for s in samples if not math.isnan(s.reward)]
    lags = [batch.taken_at - span.version for s in samples for span in s.spans]
    metrics: Metrics = {
        "response/length": statistics.fmean(len(s.tokens) - s.prompt_length for s in samples),
        "response/truncated": statistics.fmean(s.finish is Finish.LENGTH for s in samples),
        "lag/mean": statistics.fmean(lags),
        "lag/max": float(max(lags)),
        "tokens": float(sum(int(s.mask.sum()) for s in samples)),
    }
    if rewards:
        metrics["reward/mean"] = statistics.fmean(rewards)
        metrics["reward/std"] = statistics.pstdev(rewards)
    if greedy := [
        g.greedy.reward for g in batch.groups if g.greedy and g.greedy.reward == g.greedy.reward
    ]:
        metrics["reward/greedy"] = statistics.fmean(greedy)
    for name in reward_names(samples):
        values = [s.parts.get(name, math.nan) for s in samples]
        if scored := [value for value in values if not math.isnan(value)]:
            metrics[f"reward/{name}"] = statistics.fmean(scored)
    judged = [s.outcome for s in samples if s.outcome in JUDGED]
    if judged:
        metrics["accuracy"] = statistics.fmean(outcome is Outcome.OK for outcome in judged)
    return metrics


def _responses(
    per_token: Sequence[NDArray[S]], samples: Sequence[Sample], width: int, fill: float | bool
) -> NDArray[S]:
    """Response columns of a per-token quantity, right-padded to [B, T]."""
    out = np.full((len(samples), width), fill, dtype=per_token[0].dtype)
    for row, (values, sample) in enumerate(zip(per_token, samples, strict=True)):
        response = values[sample.prompt_length :]
        out[row, : len(response)] = response
    return out


def _tensor(
    array: NDArray[np.bool_] | NDArray[np.float32] | NDArray[np.int64], device: torch.device
) -> torch.Tensor:
    return torch.from_numpy(array).to(device)
