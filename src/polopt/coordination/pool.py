"""Groups that were trained on, to be trained on again.

They hold no slot of the ledger, which would fill up with them and wait for ever. A batch of P is F
new groups and P - F of these, drawn with odds of ``|A|·2^(-age/half-life)``. Their log-probs stay
those of the policy that sampled: ratios and corrections of the loss are to it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from polopt.coordination.ledger import version_of
from polopt.coordination.sources import RolloutSource
from polopt.math.reduce import row_mean
from polopt.models import streamed
from polopt.record import write_json
from polopt.seeding import derive
from polopt.types import (
    Advantages,
    Batch,
    Experience,
    Finish,
    Group,
    Metrics,
    Outcome,
    Prompt,
    Sample,
    Sampling,
    Span,
)

INDEX, TENSORS = "groups.json", "groups.safetensors"
A_TOKEN = ("tokens", "mask", "logp_rollout", "token_rewards")  # fields of a sample, [P + T]


@dataclass(frozen=True)
class Reuse:
    """How many groups are used again, and which."""

    groups: int  # of a batch
    age: int  # updates after which a group is not used again
    half_life: float  # updates after which it is drawn half as often
    seed: int


class Pool:
    """The groups that can be used again; a learner of the stage, so that a checkpoint has them.

    Args:
        of: how many, and which.
        prompt: at a place of the stream; it is not kept.
    """

    name = "reuse"

    def __init__(self, of: Reuse, prompt: Callable[[int], Prompt]) -> None:
        self._of, self._prompt = of, prompt
        self._groups: dict[int, Group] = {}  # by ticket
        self._sizes: dict[int, float] = {}  # mean |A| when it was last trained on
        self._drawn: Metrics = {}

    def offer(self, groups: Iterable[Group]) -> None:
        """Keep groups that were trained on."""
        self._groups |= {group.ticket: group for group in groups}

    def draw(self, version: int) -> list[Group]:
        """Groups to train on beside new ones; what is too old is given up for good.

        The draw is a function of seed, version and what there is, so that it is the same again
        after a resume.
        """
        ages = {ticket: version - version_of(group, 0) for ticket, group in self._groups.items()}
        self._groups = {t: g for t, g in self._groups.items() if ages[t] <= self._of.age}
        self._sizes = {t: size for t, size in self._sizes.items() if t in self._groups}
        weights = {
            ticket: size * 2 ** (-ages[ticket] / self._of.half_life)
            for ticket, size in self._sizes.items()
        }
        chosen = drawn(weights, self._of.groups, derive(self._of.seed, version))
        self._drawn = {"reuse/groups": float(len(chosen))}
        if chosen:
            self._drawn["reuse/age"] = sum(ages[ticket] for ticket in chosen) / len(chosen)
        return [self._groups[ticket] for ticket in chosen]

    def update(self, experience: Experience, advantages: Advantages, step: int) -> Metrics:
        """Remember how large the advantages of each group are; how many came from here."""
        sizes = row_mean(advantages.advantages.abs(), advantages.mask).cpu()
        groups = experience.group.cpu()
        for ticket in groups.unique().tolist():
            self._sizes[ticket] = float(sizes[groups == ticket].mean())
        return self._drawn

    def save(self, directory: Path) -> dict[str, int]:
        """Write the groups exactly, but for their prompts, which their places give back."""
        samples = [sample for group in self._groups.values() for sample in _all(group)]
        entries = [
            {
                "ticket": ticket,
                "size": self._sizes[ticket],
                "greedy": group.greedy is not None,
                "samples": [_entry(sample) for sample in _all(group)],
            }
            for ticket, group in self._groups.items()
        ]
        write_json(directory / INDEX, entries)
        streamed.write(directory / TENSORS, _tensors(samples))
        return {"groups": len(entries)}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        entries = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        tensors = load_file(directory / TENSORS)
        arrays, start = {name: tensor.numpy() for name, tensor in tensors.items()}, 0
        self._groups, self._sizes = {}, {}
        for one in entries:
            samples = list[Sample]()
            for entry in one["samples"]:
                end = start + entry["length"]
                samples.append(_sample(entry, {n: a[start:end] for n, a in arrays.items()}))
                start = end
            greedy = samples.pop() if one["greedy"] else None
            ticket = one["ticket"]
            self._groups[ticket] = Group(ticket, self._prompt(ticket), tuple(samples), greedy)
            self._sizes[ticket] = one["size"]


class Reusing:
    """A source whose batches hold groups of a pool beside those of another source."""

    def __init__(self, source: RolloutSource[Batch], pool: Pool) -> None:
        self._source, self._pool = source, pool

    def publish(self, version: int) -> None:
        """Have every engine serve the weights as they are now."""
        self._source.publish(version)

    def next_batch(self) -> Batch:
        """The next batch of the source, and groups of the pool."""
        fresh = self._source.next_batch()
        again = self._pool.draw(fresh.taken_at)
        groups = sorted((*fresh.groups, *again), key=lambda group: group.ticket)
        return replace(
            fresh, groups=tuple(groups), reused=frozenset(group.ticket for group in again)
        )

    def ack(self, batch: Batch) -> None:
        """Free the slots of the new groups, which may be used again from now on."""
        self._source.ack(batch.fresh)
        self._pool.offer(batch.fresh.groups)

    def state_dict(self) -> dict[str, Any]:
        """The state of the source; the pool is a learner of the stage."""
        return self._source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state of the source."""
        self._source.load_state_dict(state)

    def stats(self) -> Metrics:
        """Metrics of the source."""
        return self._source.stats()


def drawn(weights: Mapping[int, float], count: int, seed: int) -> list[int]:
    """At most ``count`` of the keys without replacement, each in turn with odds by its weight.

    The largest of ``log(u) / w``, u uniform (Efraimidis & Spirakis 2006, Information Processing
    Letters 97, section 3). A weight of 0 is never drawn.
    """
    source = random.Random(seed)
    keys = {
        name: math.log(1.0 - source.random()) / weight
        for name, weight in sorted(weights.items())
        if weight > 0
    }
    return sorted(sorted(keys, key=lambda name: keys[name], reverse=True)[:count])


def _all(group: Group) -> Sequence[Sample]:
    """The samples, and the greedy response behind them."""
    return group.samples if group.greedy is None else (*group.samples, group.greedy)


def _entry(sample: Sample) -> dict[str, Any]:
    """What is not a tensor; NaN, which JSON lacks, is null."""
    return {
        "length": len(sample.tokens),
        "prompt_length": sample.prompt_length,
        "spans": [[span.version, span.start, span.end] for span in sample.spans],
        "finish": sample.finish.value,
        "sampling": asdict(sample.sampling),
        "reward": _or_null(sample.reward),
        "parts": {name: _or_null(value) for name, value in sample.parts.items()},
        "outcome": sample.outcome.value,
        "token_rewards": sample.token_rewards is not None,
    }


def _sample(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Sample:
    """The inverse of :func:`_entry` and :func:`_tensors`."""
    sampling: dict[str, Any] = entry["sampling"]
    return Sample(
        tokens=arrays["tokens"],
        mask=arrays["mask"],
        logp_rollout=arrays["logp_rollout"],
        prompt_length=entry["prompt_length"],
        spans=tuple(Span(*span) for span in entry["spans"]),
        finish=Finish(entry["finish"]),
        sampling=replace(Sampling(**sampling), stop=tuple(sampling["stop"])),
        reward=_or_nan(entry["reward"]),
        parts={name: _or_nan(value) for name, value in entry["parts"].items()},
        outcome=Outcome(entry["outcome"]),
        token_rewards=arrays["token_rewards"] if entry["token_rewards"] else None,
    )


def _tensors(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """The tokens of all samples, one after the other, and what belongs to each of them."""
    fields = {name: [_of_tokens(sample, name) for sample in samples] for name in A_TOKEN}
    return {
        name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in fields.items() if arrays
    }


def _of_tokens(sample: Sample, name: str) -> NDArray[Any]:
    found = getattr(sample, name)
    return np.full(len(sample.tokens), np.nan, np.float32) if found is None else found


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
