"""Groups of responses as tensors, and the metrics of a rollout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polopt.roles import padded
from polopt.types import Batch, Experience, Finish, Group, Metrics, Outcome, Recorded, Sample

S = TypeVar("S", np.bool_, np.float32, np.int64)
BUCKETS = 9  # of lags: 0 to 7, and 8 or more
BEGINNING = 200  # characters of a prompt by which a reader knows it again
UNTRAINED = {Finish.ABORTED, Finish.ERROR}
JUDGED = {Outcome.OK, Outcome.WRONG}


def experience(batch: Batch, *, pad_id: int, device: torch.device) -> Experience:
    """The batch as tensors, rows in ticket order: prompts left-padded, responses right-padded."""
    samples = [sample for group in batch.groups for sample in group.samples]
    tokens = padded(
        [s.tokens[: s.prompt_length] for s in samples],
        [s.tokens[s.prompt_length :] for s in samples],
        pad_id=pad_id,
        device=device,
    )

    def a_token(values: Sequence[NDArray[S]], fill: float | bool) -> Tensor:
        """Response columns of a per-token quantity, right-padded to [B, T]."""
        out = np.full((len(samples), tokens.width), fill, dtype=values[0].dtype)
        for row, (of_row, sample) in enumerate(zip(values, samples, strict=True)):
            response = of_row[sample.prompt_length :]
            out[row, : len(response)] = response
        return torch.from_numpy(out).to(device)

    def a_row(of: Callable[[Sample], float], rows: Sequence[Sample] = samples) -> Tensor:
        """A number a response, [B]; NaN where it must not count."""
        numbers = [math.nan if sample.finish in UNTRAINED else of(sample) for sample in rows]
        return torch.tensor(numbers, dtype=torch.float32, device=device)

    # The tokens of the rewards, if all responses have them; else rewards are at the end.
    given = [s.token_rewards for s in samples if s.token_rewards is not None]
    greedy = [group.greedy for group in batch.groups for _ in group.samples if group.greedy]
    sampling = samples[0].sampling
    return Experience(
        mask=a_token([s.mask for s in samples], False),
        group=torch.tensor([g.ticket for g in batch.groups for _ in g.samples], device=device),
        rewards=a_row(lambda s: s.reward),
        parts={name: a_row(partial(_part, name=name)) for name in reward_names(samples)},
        greedy_rewards=a_row(lambda s: s.reward, greedy) if greedy else None,
        logp_rollout=a_token([s.logp_rollout for s in samples], np.nan),
        lag=a_token(token_lags(batch), 0),
        token_rewards=a_token(given, np.nan) if len(given) == len(samples) else None,
        truncated=torch.tensor([s.finish is Finish.LENGTH for s in samples], device=device),
        right=a_row(lambda s: float(s.outcome is Outcome.OK) if s.outcome in JUDGED else math.nan),
        tokens=replace(
            tokens, temperature=sampling.temperature, min_new_tokens=sampling.min_new_tokens
        ),
    )


def recorded(batch: Batch, most: int, device: torch.device) -> Recorded:
    """The first responses, at most so many, to prompts that the batch did not take from before."""
    fresh = [g.ticket not in batch.reused for g in batch.groups for _ in g.samples]
    count = min(most, sum(fresh))
    place = np.cumsum(fresh) - 1  # of those that are fresh
    slot = np.where(np.array(fresh) & (place < count), place, count)
    return Recorded(torch.from_numpy(slot).to(device, non_blocking=True), count)


def token_lags(batch: Batch) -> list[NDArray[np.int64]]:
    """Of every response, [P + T]: updates from the policy that drew a token to the one at take."""
    lags = list[NDArray[np.int64]]()
    for sample in (sample for group in batch.groups for sample in group.samples):
        lag = np.zeros(len(sample.tokens), dtype=np.int64)
        for span in sample.spans:
            lag[span.start : span.end] = batch.taken_at - span.version
        lags.append(lag)
    return lags


def lag_metrics(batch: Batch, steps_a_version: int) -> Metrics:
    """How stale the tokens of a batch are: in optimiser steps, by lag, and how often it changed.

    Args:
        batch: of sampled groups.
        steps_a_version: optimiser steps between two versions of the policy.
    """
    samples = [sample for group in batch.groups for sample in group.samples]
    lags = _sampled_lags(batch)
    counts = np.bincount(lags.clip(0, BUCKETS - 1), minlength=BUCKETS)
    return {
        "lag/steps_mean": steps_a_version * float(lags.mean()),
        "lag/steps_max": steps_a_version * float(lags.max()),
        "lag/spans": statistics.fmean(len(sample.spans) for sample in samples),
        **{f"lag/{lag}/tokens": float(n) for lag, n in enumerate(counts.tolist()) if n},
    }


def _sampled_lags(batch: Batch) -> NDArray[np.int64]:
    """The lags of all tokens that the policy drew."""
    samples = [sample for group in batch.groups for sample in group.samples]
    pairs = zip(token_lags(batch), samples, strict=True)
    return np.concatenate([lag[sample.mask] for lag, sample in pairs])


def asked(batch: Batch) -> Sequence[str]:
    """The keys of the prompts of a batch that were not asked before."""
    return [key for group in batch.fresh.groups for key in group.prompt.keys]


def earned(batch: Batch) -> dict[str, float]:
    """The mean reward of the answers to each of those prompts, by its first key."""
    found = dict[str, float]()
    for group in batch.fresh.groups:
        rewards = _numbers(sample.reward for sample in group.samples)
        if group.prompt.keys and rewards:
            found[group.prompt.keys[0]] = statistics.fmean(rewards)
    return found


def introduced(batch: Batch, size: int | None) -> dict[str, str]:
    """How the prompts begin that are asked for the first time and will be again, by that key.

    Args:
        batch: of sampled groups.
        size: rows of the data; None: endless, and no prompt is asked twice.
    """
    rewarded = earned(batch)
    asked_for = {
        group.prompt.keys[0]: group.prompt.messages[-1]["content"]
        if group.prompt.messages
        else group.prompt.text
        for group in batch.fresh.groups
        if group.prompt.keys and size is not None and group.ticket < size
    }
    return {key: text[:BEGINNING] for key, text in asked_for.items() if key in rewarded}


def reward_names(samples: Sequence[Sample]) -> list[str]:
    """The rewards that apply to any of the responses."""
    return sorted({name for s in samples for name in s.parts})


def _part(sample: Sample, name: str) -> float:
    """One of the rewards of a response; NaN where it does not apply."""
    return sample.parts.get(name, math.nan)


def informative(least: float, most: float) -> Callable[[Group], bool]:
    """Whether a group has contrast, and from ``least`` to ``most`` of its answers are right.

    PRIME 2502.01456 keeps prompts of medium difficulty. Where nothing is judged, contrast is all.
    """

    def keep(group: Group) -> bool:
        right = marks(group.samples)
        return has_contrast(group) and (not right or least <= statistics.fmean(right) <= most)

    return keep


def has_contrast(group: Group) -> bool:
    """Whether the rewards of the responses to a prompt differ (DAPO 2503.14476, Eq. 11).

    By the rewards as they were given, before any penalty for length; below 1e-6 it is rounding.
    The greedy response counts where there is one: the others are compared with it.
    """
    responses = group.samples if group.greedy is None else (*group.samples, group.greedy)
    rewards = _numbers(s.reward for s in responses)
    return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


def rollout_metrics(batch: Batch) -> Metrics:
    """Rewards, accuracy, lengths and policy lag of a batch of sampled groups."""
    samples = [sample for group in batch.groups for sample in group.samples]
    lags = _sampled_lags(batch)
    metrics: Metrics = {
        "response/length": statistics.fmean(len(s.tokens) - s.prompt_length for s in samples),
        "response/truncated": statistics.fmean(s.finish is Finish.LENGTH for s in samples),
        "lag/min": float(lags.min()),
        "lag/mean": float(lags.mean()),
        "lag/max": float(lags.max()),
        "tokens": float(tokens_of(samples)),
    }
    if greedy := [group.greedy for group in batch.groups if group.greedy]:
        metrics["greedy_tokens"] = float(tokens_of(greedy))
    if rewards := _numbers(s.reward for s in samples):
        metrics["reward/mean"] = statistics.fmean(rewards)
        metrics["reward/std"] = statistics.pstdev(rewards)
    if rewards := _numbers(sample.reward for sample in greedy):
        metrics["reward/greedy"] = statistics.fmean(rewards)
    for name in reward_names(samples):
        if parts := _numbers(_part(s, name) for s in samples):
            metrics[f"reward/{name}"] = statistics.fmean(parts)
            metrics[f"reward_std/{name}"] = statistics.pstdev(_added(samples, name))
    if right := marks(samples):
        metrics["accuracy"] = statistics.fmean(right)
    return metrics


def tokens_of(samples: Iterable[Sample]) -> int:
    """How many tokens the policy wrote of some samples."""
    return sum(int(sample.mask.sum()) for sample in samples)


def marks(samples: Iterable[Sample]) -> list[bool]:
    """Right or wrong, of the responses that could be judged."""
    return [s.outcome is Outcome.OK for s in samples if s.outcome in JUDGED]


def _added(samples: Iterable[Sample], name: str) -> list[float]:
    """What one of the rewards adds to each response, before its weight: 0 where it does not apply.

    Of a response that could not be scored it is not known.
    """
    parts = [
        0.0 if math.isnan(part) and not math.isnan(sample.reward) else part
        for sample in samples
        for part in [_part(sample, name)]
    ]
    return _numbers(parts)


def _numbers(rewards: Iterable[float]) -> list[float]:
    """The numbers that are not NaN."""
    return [reward for reward in rewards if not math.isnan(reward)]
